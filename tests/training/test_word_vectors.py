"""Word vectors are trained from texts and questions, and give words of like meaning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nextmem_agents.errors import DataError
from nextmem_agents.recall.related_words import load_related_words
from nextmem_agents.training.word_pairs import WordPairs, prepare_words
from nextmem_agents.training.word_vectors import WordVectorsConfig, train_word_vectors

PETS = ["The dog barks at the puppy.", "A puppy and a dog bark loudly.", "Dogs love puppies that bark."]
SEA = ["The ship leaves the harbour.", "A boat and a ship sail from the harbour.", "Ships and boats sail."]

TINY = WordVectorsConfig(
    steps=60,
    batch_size=16,
    learning_rate=0.05,
    warmup_steps=1,
    words=50,
    size=8,
    texts={"talk": 1.0},
    questions=("qa",),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    texts = [" ".join(part[i:] + part[:i]) for part in (PETS, SEA) for i in range(3)] * 4
    (folder / "talk.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = {"context": " ".join(SEA), "question": "What leaves the harbour?", "answers": ["ship"]}
    (folder / "qa.jsonl").write_text((json.dumps(asked) + "\n") * 5)
    return folder


def test_words_that_stand_together_come_near(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    exported = tmp_path / "words.safetensors"
    train_word_vectors(TINY, data, tmp_path / "run", exported)
    related = load_related_words(exported)
    assert {"dog", "puppi", "ship", "boat"} <= set(related.words)
    near = dict(related.to("dog"))
    assert near.get("puppi", 0) > near.get("ship", 0)


def test_a_run_goes_on_to_the_same_words(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    short = dataclasses.replace(TINY, steps=4, checkpoint_every=2)
    whole, again = tmp_path / "whole.safetensors", tmp_path / "again.safetensors"
    train_word_vectors(short, data, tmp_path / "run", whole)
    train_word_vectors(short, data, tmp_path / "run", again)  # nothing is left to do
    assert load_related_words(whole).fingerprint == load_related_words(again).fingerprint


def test_pairs_are_of_one_text(data: Path, tmp_path: Path) -> None:
    prepare_words(data, {"talk": 1.0}, ["qa"], 50, tmp_path / "corpus")
    words = json.loads((tmp_path / "corpus" / "words.json").read_text())["words"]
    sea = {words.index(word) for word in ("ship", "boat", "harbour", "sail") if word in words}
    pets = {words.index(word) for word in ("dog", "puppi", "bark") if word in words}
    drawn = WordPairs(tmp_path / "corpus").draw(np.random.default_rng(0), 200, 0.3, 0.35)
    assert len(drawn) == 200
    for first, second in drawn:
        both = {*first.tolist(), *second.tolist()}
        assert len(first)
        assert len(second)
        assert not (both & sea and both & pets)


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text('{"text": "Hello there."}\n')
    with pytest.raises(DataError, match="too little text"):
        prepare_words(tmp_path, {"talk": 1.0}, [], 50, tmp_path / "corpus")
