"""The reference page is the help of the commands as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextmem_agents.cli.reference import PATH, help_of, page

FILE = Path(__file__).parents[2] / PATH


def test_the_page_is_current() -> None:
    if not FILE.parent.exists():
        pytest.skip("the documents are not here")
    command = f"python -m nextmem_agents.cli.reference {PATH}"
    assert FILE.read_text(encoding="utf-8") == page(), f"write it anew: {command}"


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    once = help_of(("recall",))
    for name, value in {"COLUMNS": "60", "NEXTMEM_SCOPE": "alice", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    assert help_of(("recall",)) == once
    assert "\x1b" not in once
    assert "Usage: nextmem recall" in once
