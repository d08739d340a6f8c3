"""Latents searched by themselves: passages of several chunks count once, and measures are those of the names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextmem_agents import DataError, LatentCodec
from nextmem_agents.evaluation.latent_search import (
    Collection,
    conversation_collection,
    evaluate,
    squad_collection,
)
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo


def test_a_passage_asked_for_by_itself_is_found_by_every_ranking(codec: LatentCodec) -> None:
    hidden = {
        "boat": "harbour",
        "lamp": "attic",
        "ledger": "safe",
        "violin": "hall",
        "kite": "shed",
        "key": "jar",
    }
    passages = [f"Note {i}: the {word} is in the {place}." for i, (word, place) in enumerate(hidden.items())]
    long = " ".join(passages) * 6
    collection = Collection([*passages, long], passages[:3], [{0}, {1}, {2}])
    rows = {row.ranking: row for row in evaluate([collection], codec)}
    assert {"fts5", "mean", "maxsim"} <= rows.keys()
    for row in rows.values():
        assert row.questions == 3
        assert row.hit_5 == row.recall_5 == row.recall_10 == 1


def test_measures_average_over_questions(codec: LatentCodec) -> None:
    passages = [f"word{i}" for i in range(30)]
    collection = Collection(passages, ["word3", "nothing of the kind"], [{3}, {7, 8}])
    fts5 = next(row for row in evaluate([collection], codec) if row.ranking == "fts5")
    assert fts5.hit_5 == fts5.recall_5 == fts5.recall_10 == 0.5


def test_a_conversation_gives_its_turns_and_scored_questions() -> None:
    [harbour] = load_locomo(default_conversation())
    collection = conversation_collection(harbour)
    assert len(collection.passages) == len(harbour.turns)
    assert all(collection.relevant)
    assert len(collection.questions) == len(collection.relevant)


def test_bad_files_are_clear_errors(tmp_path: Path, codec: LatentCodec) -> None:
    path = tmp_path / "squad.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="no SQuAD file"):
        squad_collection(path)
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}))
    with pytest.raises(DataError, match="has 1 paragraphs"):
        squad_collection(path, 2)
    assert squad_collection(path, 1) == Collection(["a"], ["b"], [{0}])
    with pytest.raises(DataError, match="no question"):
        evaluate([Collection(["a"], [], [])], codec)
