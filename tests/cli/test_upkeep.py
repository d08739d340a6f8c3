"""This machine: doctor, bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextmem_agents import NextMem
from nextmem_agents.cli import diagnosis
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers
from tests.conftest import CODEC


@covers(SUCCESS, "doctor")
def test_doctor_finds_a_sound_installation(works: Run, home: Path) -> None:
    said = works("doctor", "--texts").out
    for subject in ("package torch", "codec", "round trip", "device", "token counts", "lock", "integrity"):
        assert subject in said
    assert said.endswith("everything works\n")


@covers(JSON, "doctor")
def test_doctor_says_what_to_do(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str | None:
        return None if name in ("chromadb", "ray") else "1.0"

    monkeypatch.setattr(diagnosis, "_version", version)
    with NextMem.open(home, codec=CODEC):
        ended = run("doctor", "--json")
    assert ended.code == 4
    found = {row["subject"]: row for row in ended.rows}
    assert all(set(row) == {"subject", "status", "detail", "advice"} for row in ended.rows)
    assert found["package chromadb"]["status"] == "bad"
    assert found["extra ray"]["advice"] == 'pip install "nextmem-agents[ray]"'
    assert found["lock"]["status"] == "note"
    assert "pid" in found["lock"]["detail"]
    assert found["integrity"]["status"] == "ok"


def test_doctor_without_a_store_or_with_another_codecs(run: Run, home: Path) -> None:
    assert "there is none in" in run("doctor", "--store", "nowhere").out
    with_other = run("doctor", "--codec", "mini-dense", "--json")
    assert with_other.code == 4
    [store] = [row for row in with_other.rows if row["subject"] == "store"]
    assert "was written with the codec" in store["detail"]


@covers(SUCCESS, "bench")
@covers(JSON, "bench")
def test_bench_prints_milliseconds_and_ratios(works: Run) -> None:
    rows = works("bench", "--seconds", 0.1, "--batch", 2, "--json").json["rows"]
    names = [row["operation"].split(",")[0] for row in rows]
    assert names == [
        *("encode", "encode", "decode", "decode", "remember", "remember", "recall", "recall"),
        "text memory (SQLite FTS5)",
    ]
    assert all(row["ms"] > 0 and row["calls"] >= 3 for row in rows)
    assert rows[1]["ratio"] == pytest.approx(rows[0]["ms"] / rows[1]["ms_per_text"])
