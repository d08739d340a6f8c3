"""A file's structure says which benchmark it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.passages import load_benchmark
from tests.evaluation import test_longmemeval
from tests.evaluation.tiny_study import item

SQUAD = {
    "data": [
        {
            "title": "Quince",
            "paragraphs": [
                {
                    "context": "The quince is a fruit.",
                    "qas": [
                        {
                            "question": "What is a quince?",
                            "answers": [{"text": "a fruit"}, {"text": "fruit"}],
                        },
                        {"question": "Why?", "answers": []},
                    ],
                },
                {"context": "It is yellow.", "qas": [{"question": "Which colour?", "answers": ["yellow"]}]},
            ],
        }
    ]
}
HOTPOT = [
    {
        "question": "Where is it?",
        "answer": "Porto",
        "context": [["Vet", ["The vet ", "is in Porto."]], ["Dog", "A dog barks."], ["Empty", []]],
        "supporting_facts": [["Vet", 1]],
    }
]


def load(folder: Path, content: Any) -> Any:
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    return load_benchmark(path)


def test_squad_asks_over_the_paragraphs_of_an_article(tmp_path: Path) -> None:
    benchmark = load(tmp_path, SQUAD)
    [article] = benchmark.histories
    assert [turn.text for turn in article.sessions[0].turns] == ["The quince is a fruit.", "It is yellow."]
    assert article.sessions[0].date is None
    assert [query.evidence for query in article.queries] == [("p0",), ("p1",)]
    assert benchmark.score(article.queries[0], "The fruit") == 1.0


def test_hotpotqa_brings_its_own_paragraphs(tmp_path: Path) -> None:
    [history] = load(tmp_path, HOTPOT).histories
    assert [(turn.speaker, turn.text) for turn in history.sessions[0].turns] == [
        ("Vet", "The vet is in Porto."),
        ("Dog", "A dog barks."),
    ]
    assert history.queries[0].evidence == ("p0",)


def test_conversations_are_known_too(tmp_path: Path) -> None:
    assert load(tmp_path, [item()]).name == "LoCoMo"
    assert load(tmp_path, [test_longmemeval.published()]).name == "LongMemEval"


@pytest.mark.parametrize(
    "content", [[], {}, [1], [{"text": "x"}], {"data": [{"title": "x"}]}, [{**HOTPOT[0], "context": 3}]]
)
def test_anything_else_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match=r"neither SQuAD|published form|no question"):
        load(tmp_path, content)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        load_benchmark(tmp_path / "none.json")
    broken = tmp_path / "b.json"
    broken.write_text("{")
    with pytest.raises(DataError, match="not a readable JSON"):
        load_benchmark(broken)
