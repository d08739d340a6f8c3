"""Counting with what is on the machine, never with what would have to be fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextmem_agents import NextMem
from nextmem_agents.recall import budget
from nextmem_agents.recall.budget import TokenCounter, token_counter


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    budget._tiktoken.cache_clear()
    yield
    budget._tiktoken.cache_clear()


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.usefixtures("no_files")
def test_without_the_encodings_file_the_fallback_counts() -> None:
    fallback = TokenCounter("codec:x", len)
    assert token_counter(None, fallback) is fallback
    assert token_counter("gpt-4o", fallback) is fallback


@pytest.mark.usefixtures("no_files")
def test_the_last_resort_is_an_estimate_that_says_so() -> None:
    counter = token_counter()
    assert counter.source == "estimate"
    assert counter("four words of text") == 6


def test_the_files_inside_llama_index_are_used_and_the_environment_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core carries the encodings' files")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    counter = token_counter()
    assert counter.source == "tiktoken:o200k_base"
    assert counter("hello world") == 2
    assert counter("<|endoftext|>") > 1  # what a user writes is never special
    assert token_counter("gpt-4").source == "tiktoken:cl100k_base"
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


def test_an_encoding_whose_file_is_not_here_is_not_fetched() -> None:
    fallback = TokenCounter("codec:x", len)
    assert token_counter("text-davinci-003", fallback) is fallback
    assert token_counter("gpt2", fallback) is fallback


def test_an_unknown_model_is_counted_with_the_codecs_tokenizer(memory: NextMem) -> None:
    counter = memory.scope().token_counter("claude-something")
    assert counter.source == "codec:mini-16"
    assert counter("hello") >= 1
