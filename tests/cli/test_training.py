"""``nextmem train``: its commands' success is in ``tests/training``, which runs them whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tests.training
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covered, covers

TRAINING = Path(tests.training.__path__[0])
covers(
    SUCCESS,
    *(
        f"train {name}"
        for name in ("language-model", "stage-1", "stage-2", "index-head", "reader", "span-reader")
    ),
)
covers(SUCCESS, "train")


@pytest.mark.parametrize(
    "name", sorted(n for n in covered if n.startswith("train ") and n != "train word-vectors")
)
def test_a_training_command_is_run_in_the_tests_of_training(name: str) -> None:
    _, command = name.split()
    function = f"train_{command.replace('-', '_')}"
    here = Path(__file__).parent
    tests = [file for file in TRAINING.parent.rglob("test_*.py") if here not in file.parents]
    sources = "".join(file.read_text() for file in tests)
    assert f'"{command}"' in sources or function in sources


@covers(SUCCESS, "train word-vectors")
def test_word_vectors_are_trained(works: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    places = ("harbour", "market", "station", "garden", "bridge", "tower")
    texts = [f"The {a} is old. Beside the {b} stands a house near the {a}." for a in places for b in places]
    (tmp_path / "data" / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {"steps": 2, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2, "texts": {"t": 1.0}}
    config |= {"questions": [], "question_share": 0.0, "words": 50, "size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    works("train", "word-vectors", "--data", "data", "--output", "run", "--config", "config.json")
    assert (tmp_path / "run" / "log.jsonl").is_file()


TRAINERS = {
    "train": "recipe.train_recipe",
    "train language-model": "language_model.train_language_model",
    "train stage-1": "stage_1.train_stage_1",
    "train stage-2": "stage_2.train_stage_2",
    "train index-head": "matching.train_index_head",
    "train reader": "reader.train_reader",
    "train span-reader": "span_reading.train_span_reader",
    "train word-vectors": "word_vectors.train_word_vectors",
}


@covers(JSON, *TRAINERS)
@pytest.mark.parametrize("name", TRAINERS)
def test_json_is_one_object_with_the_run_and_its_last_step(
    works: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def trained(*_: object, **__: object) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "log.jsonl").write_text('{"step": 0, "loss": 2.5}\n{"step": 1, "loss": 1.5}\n')

    monkeypatch.setattr(f"nextmem_agents.training.{TRAINERS[name]}", trained)
    backbone = ["--backbone", "b"] if "stage" in name else []
    stage_1 = ["--stage-1", "s"] if name == "train stage-2" else []
    printed = works(*name.split(), *backbone, *stage_1, "--data", "data", "--output", "run", "--json")
    report = json.loads(printed.out)
    assert report == {"run": "run", "export": None, "last_step": {"step": 1, "loss": 1.5}}
