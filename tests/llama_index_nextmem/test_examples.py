"""The LlamaIndex examples run offline and say what they promise."""

from __future__ import annotations

from runpy import run_path

import pytest

from nextmem_agents import NextMem
from tests.llama_index_nextmem.conftest import WARNINGS_OF_AGENTS

pytestmark = WARNINGS_OF_AGENTS


def test_the_query_engine_answers_from_memory(capsys: pytest.CaptureFixture[str]) -> None:
    run_path("examples/llama_index_query_engine.py")["main"]()
    printed = capsys.readouterr().out
    assert "Where did Ann move?\n  I moved into a flat in Lisbon.\n" in printed
    assert "see the vet?\n  Rufus sees the vet on Friday.\n" in printed
    assert "2025-05-03  decompress  I moved into a flat in Lisbon.\n" in printed


async def test_the_agent_answers_from_earlier_conversations(
    memory: NextMem, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run_path("examples/llama_index_agent.py")
    ann = memory.scope("ann")
    await example["talk"](ann, example["llm_of"]("quote", ann))
    printed = capsys.readouterr().out
    assert "Where did I move?\n  Agent: I moved to Lisbon in May, into a flat above a bakery.\n" in printed
    assert "see the vet?\n  Agent: Rufus has to see the vet on Friday at ten.\n" in printed
    assert "  tuesday, user: Rufus has to see the vet on Friday at ten.\n" in printed
