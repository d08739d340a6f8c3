"""Counting with what is on the machine, never with what would have to be fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nextmem_agents.recall import budget


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    budget.tiktoken_counter.cache_clear()
    yield
    budget.tiktoken_counter.cache_clear()


def test_without_the_encodings_file_there_is_no_counter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert budget.tiktoken_counter() is None


def test_the_file_inside_llama_index_is_used_and_the_environment_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core carries the encoding's file")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    count = budget.tiktoken_counter()
    assert count is not None
    assert count("hello world") == 2
    assert count("<|endoftext|>") > 1  # what a user writes is never special
    assert "TIKTOKEN_CACHE_DIR" not in __import__("os").environ
