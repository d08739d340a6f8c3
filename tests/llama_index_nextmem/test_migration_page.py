"""The migration page's listings run, one after another."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import NextMem
from tests.llama_index_nextmem.conftest import WARNINGS_OF_AGENTS, ScriptedLLM, what_reached

pytestmark = WARNINGS_OF_AGENTS
PAGE = Path("docs/migration-llama-index.md")


async def test_every_listing_runs(memory: NextMem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NextMem, "open", lambda: memory)
    llm = ScriptedLLM(lines=["Noted."])
    names: dict[str, Any] = {"llm": llm}
    listings = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for listing in listings:
        code = compile(listing, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # noqa: S307 - our own page
        if inspect.isawaitable(running):
            await running
    assert len(listings) == 7
    ann = memory.scope("ann")
    assert [kept.id for kept in ann.list()] == ["lease", "opening"]
    assert "> The bakery opens at six." in what_reached(llm)
