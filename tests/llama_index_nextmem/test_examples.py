"""The LlamaIndex example runs offline and says what it promises."""

from __future__ import annotations

from runpy import run_path

import pytest

from tests.conftest import CODEC


def test_the_query_engine_answers_from_memory(capsys: pytest.CaptureFixture[str]) -> None:
    run_path("examples/llama_index_query.py")["main"](CODEC)
    printed = capsys.readouterr().out
    assert "Where did Ann move?\n  I moved into a flat in Lisbon.\n" in printed
    assert "see the vet?\n  Rufus sees the vet on Friday.\n" in printed
