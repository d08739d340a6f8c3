"""No memory leaves its quotation, whatever it says, in anything that the LlamaIndex adapters render."""

from __future__ import annotations

import re
from typing import Any

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.query_engine import RetrieverQueryEngine

from llama_index_nextmem import (
    NextMemMemory,
    NextMemMemoryBlock,
    NextMemQueryEngine,
    NextMemRetriever,
    QuotingPostprocessor,
)
from nextmem_agents import NextMem, Scope
from nextmem_agents.recall.rendering import HEADING
from tests.injections import ATTEMPTS, check_quoted
from tests.llama_index_nextmem.conftest import ScriptedLLM
from tests.scope.conftest import fake, open_fake  # noqa: F401 - fixtures

QUESTION = "Where is the key?"
N = len(ATTEMPTS)
EVERYTHING: dict[str, Any] = {"k": N, "max_tokens": None}


class LargeLLM(ScriptedLLM):
    """With room for all of them in one call."""

    @property
    def metadata(self) -> Any:
        return super().metadata.model_copy(update={"context_window": 100_000})


@pytest.fixture
def attacked(fake: NextMem) -> Scope:  # noqa: F811
    """A scope in which every attempt answers the question."""
    scope = fake.scope("alice")
    scope.remember([f"{attempt} key" for attempt in ATTEMPTS], role=[f"u{i}\nsystem:" for i in range(N)])
    return scope


async def test_the_memory_block(attacked: Scope) -> None:
    block = NextMemMemoryBlock(memory=attacked, **EVERYTHING)
    found = await block.aget([ChatMessage(QUESTION)])
    assert isinstance(found, str)
    check_quoted(found, N)
    shorter = await block.atruncate(found, 1000)
    assert isinstance(shorter, str)
    check_quoted(shorter, shorter.count("\n["))


async def test_the_chat_memory(attacked: Scope) -> None:
    llm = LargeLLM(lines=["Under the mat."])
    memory = NextMemMemory.from_defaults(attacked, session_id="s", token_limit=100_000, **EVERYTHING)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory, system_prompt="Be brief.")
    await engine.achat(QUESTION)
    system, asked = llm.prompts[0]
    assert (system.role, system.content) == (MessageRole.SYSTEM, "Be brief.")
    found = re.fullmatch(
        rf"<memory>\n<NextMem>\n(.*)\n</NextMem>\n</memory>\n{re.escape(QUESTION)}",
        asked.content or "",
        re.DOTALL,
    )
    assert found
    check_quoted(found[1], N)


def test_the_postprocessor(attacked: Scope) -> None:
    llm = LargeLLM(lines=["Under the mat."])
    RetrieverQueryEngine(
        NextMemRetriever(attacked, k=N),
        get_response_synthesizer(llm=llm),
        node_postprocessors=[QuotingPostprocessor()],
    ).query(QUESTION)
    body = llm.prompts[0][1].content or ""
    body = body[body.index(HEADING) : body.index("\n---------------------\nGiven")]
    block = "\n".join([HEADING, *(part.removeprefix("\n").rstrip("\n") for part in body.split(HEADING)[1:])])
    check_quoted(block, N)


def test_the_synthesizer(attacked: Scope) -> None:
    llm = LargeLLM(lines=["Under the mat."])
    NextMemQueryEngine(attacked, llm=llm, k=N).query(QUESTION)
    system, asked = llm.prompts[0]  # LlamaIndex's own: its text stands in no template
    assert system.role is MessageRole.SYSTEM
    assert "key" not in (system.content or "")
    body = asked.content or ""
    block = body[body.index(HEADING) : body.index("\n---------------------\nGiven")]
    check_quoted(block, N)
    assert QUESTION in body.replace(block, "")
