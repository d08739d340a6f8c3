"""A corpus gets into memory once and whole, whatever interrupts it, in one process or in several."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextmem_agents import CodecMismatch, DataError, InvalidArgument, LatentCodec, NextMem
from nextmem_agents.corpus.bulk import Bulk, Totals
from nextmem_agents.corpus.documents import sources
from nextmem_agents.corpus.encoding import Recipe
from nextmem_agents.corpus.workers import WorkerDied, pooled
from nextmem_agents.scope.transfer import VERSION
from tests.conftest import CODEC
from tests.corpus.work import answering

RECIPE = Recipe(str(Path(CODEC).absolute()) if "/" in CODEC else CODEC, "wiki")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(f"Fact {i}: house {i % 7} is blue.") + "\n" for i in range(20)))
    return path


def plan(corpus: Path, **options: int) -> Bulk:
    return Bulk(sources([corpus]), RECIPE, **{"batch_size": 8, **options})  # type: ignore[arg-type]


def test_a_second_run_writes_what_is_missing_or_changed(corpus: Path, memory: NextMem) -> None:
    steps = plan(corpus).into_folder(memory)
    assert next(steps) == Totals(8, 8, 0)
    steps.close()  # as good as a crash: nothing is done afterwards
    assert [*plan(corpus).into_folder(memory)][-1] == Totals(20, 12, 8)
    assert [*plan(corpus).into_folder(memory)][-1] == Totals(20, 0, 20)
    scope = memory.scope("wiki")
    assert [m.text for m in scope.list()][3] == "Fact 3: house 3 is blue."
    corpus.write_text('{"id": "own", "text": "old"}\n')
    assert [*plan(corpus).into_folder(memory)][-1].written == 1
    corpus.write_text('{"id": "own", "text": "new"}\n')
    assert [*plan(corpus).into_folder(memory)][-1].written == 1
    assert [m.text for m in scope.history("own")] == ["old", "new"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_has_ended_is_not_brought_back(corpus: Path, memory: NextMem, workers: int) -> None:
    corpus.write_text('{"id": "old", "text": "He lives in Rome."}\n{"id": "gone", "text": "Tea."}\n"Else."\n')
    assert [*plan(corpus, workers=workers).into_folder(memory)][-1].written == 3
    scope = memory.scope("wiki")
    scope.remember("He lives in Oslo.", id="new", supersedes="old")
    scope.forget(["gone"])  # its bytes are gone too, so that the corpus brings it back
    assert [*plan(corpus, workers=workers).into_folder(memory)][-1] == Totals(3, 1, 2)
    assert {m.id for m in scope.list()} >= {"new", "gone"}
    assert [m.text for m in scope.history("old")] == ["He lives in Rome."]
    corpus.write_text('{"id": "old", "text": "He lives in Bonn."}\n')
    assert [*plan(corpus, workers=workers).into_folder(memory)][-1].written == 1
    assert scope.get("old").text == "He lives in Bonn."


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("workers", [1, 2])
def test_of_an_id_that_comes_twice_the_last_text_stays_however_often_it_runs(
    corpus: Path, memory: NextMem, batch_size: int, workers: int
) -> None:
    corpus.write_text('{"id": "a", "text": "On Monday."}\n"Between."\n{"id": "a", "text": "On Friday."}\n')
    for _ in range(3):
        [*plan(corpus, batch_size=batch_size, workers=workers).into_folder(memory)]
        assert memory.scope("wiki").get("a").text == "On Friday."


def test_the_hooks_of_a_memory_see_a_corpus_too(corpus: Path, codec: LatentCodec) -> None:
    seen = []
    with NextMem.open(
        ":memory:", codec=codec, on_remember=lambda item: seen.append(item.text) or item
    ) as memory:
        assert [*plan(corpus).into_folder(memory)][-1].written == 20
        assert len(seen) == 20
        with pytest.raises(InvalidArgument, match="one process"):
            next(plan(corpus, workers=2).into_folder(memory))


def test_an_encrypted_scope_takes_a_corpus(corpus: Path, codec: LatentCodec, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with NextMem.open(tmp_path / "m", codec=codec) as memory:
        assert [*plan(corpus).into_folder(memory, encrypted=True)][-1].written == 20
        assert [*plan(corpus).into_folder(memory, encrypted=True)][-1].there_before == 20
        assert memory.scope("wiki").encrypted
        assert memory.scope("wiki").recall("Which house is fact 3 about?", 1)[0].exact is None


def test_a_file_is_taken_up_where_it_was_cut_off(corpus: Path, memory: NextMem, tmp_path: Path) -> None:
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    [*plan(corpus).into_file(tmp_path / "whole.jsonl")]
    steps = plan(corpus).into_file(out)
    next(steps)
    steps.close()
    with part.open("r+b") as file:  # cut within a line, as a crash does
        file.truncate(part.stat().st_size - 10)
    assert not out.exists()
    assert [*plan(corpus).into_file(out)][-1] == Totals(20, 13, 7)
    assert not part.exists()
    assert memory.scope("a").import_(out) == 20
    assert memory.scope("b").import_(tmp_path / "whole.jsonl") == 20
    assert [m.text for m in memory.scope("a").list()] == [m.text for m in memory.scope("b").list()]
    assert json.loads(out.read_text().splitlines()[0])["version"] == VERSION


def test_a_part_of_another_corpus_or_codec_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    steps = plan(corpus).into_file(out)
    next(steps)
    steps.close()
    rest = corpus.read_text().splitlines(keepends=True)
    corpus.write_text('"Another beginning."\n' + "".join(rest[1:]))
    with pytest.raises(DataError, match="another corpus"):
        [*plan(corpus).into_file(out)]
    corpus.write_text('{"id": "own", "text": "old"}\n')
    other = plan(corpus).into_file(tmp_path / "own.jsonl")
    next(other)
    other.close()
    corpus.write_text('{"id": "own", "text": "new"}\n')
    with pytest.raises(DataError, match="another text"):
        [*plan(corpus).into_file(tmp_path / "own.jsonl")]
    corpus.write_text("".join(rest[:3]))
    with pytest.raises(DataError, match="more than the corpus"):
        [*plan(corpus).into_file(out)]
    with pytest.raises(DataError, match="another codec or scope"):
        [*Bulk(sources([corpus]), Recipe(RECIPE.codec, "other")).into_file(out)]
    (tmp_path / "there.jsonl").touch()
    with pytest.raises(DataError, match="there already"):
        [*plan(corpus).into_file(tmp_path / "there.jsonl")]


@pytest.mark.parametrize("there", ["Notes of mine", "Notes of mine\n", "[1]\n", '{"a": 1}\n'])
def test_a_file_of_somebody_else_is_no_part(corpus: Path, tmp_path: Path, there: str) -> None:
    part = tmp_path / "out.jsonl.part"
    part.write_text(there)
    with pytest.raises(DataError, match="delete it"):
        [*plan(corpus).into_file(tmp_path / "out.jsonl")]
    assert part.read_text() == there


def test_a_part_is_written_by_one_process_at_a_time(corpus: Path, tmp_path: Path) -> None:
    steps = plan(corpus).into_file(tmp_path / "out.jsonl")
    next(steps)
    with pytest.raises(DataError, match="another process"):
        [*plan(corpus).into_file(tmp_path / "out.jsonl")]
    assert [*steps][-1].written == 20
    assert {file.name for file in tmp_path.iterdir()} == {"corpus.jsonl", "out.jsonl"}


def test_two_workers_that_are_killed_with_their_parent_leave_a_store_that_is_taken_up(
    corpus: Path, codec: LatentCodec, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    corpus.write_text("".join(json.dumps(f"Fact {i}: house {i % 7} is blue.") + "\n" for i in range(3000)))
    command = [
        sys.executable,
        "-m",
        "nextmem_agents.cli",
        "encode",
        corpus,
        "--store",
        store,
        "--scope",
        "wiki",
    ]
    options = ["--workers", "2", "--batch-size", "4", "--codec", RECIPE.codec]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        written, end = 0, time.monotonic() + 200
        while not written and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
            written = _count(store)
        assert process.poll() is None, process.stderr and process.stderr.read()
        workers = _children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert 0 < written < 3000
    while any(map(_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, workers)), "workers outlived their parent"
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[: written + 4]))
    with NextMem.open(store, codec=codec) as memory:
        totals = [*plan(corpus, batch_size=64).into_folder(memory)][-1]
        assert totals.there_before >= written
        texts = {m.text for m in memory.scope("wiki").list()}
        assert {f"Fact {i}: house {i % 7} is blue." for i in range(written + 4)} <= texts
        assert memory.scope("wiki").count() == len(texts)
        assert memory.verify().sound


def _count(store: Path) -> int:
    try:
        with sqlite3.connect(f"file:{store}/records.sqlite3?mode=ro", uri=True) as sql:
            return int(sql.execute("SELECT COUNT(*) FROM memories").fetchone()[0])
    except sqlite3.Error:
        return 0


def _children(parent: int) -> list[int]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find child processes")
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_results_come_in_order_and_a_dead_worker_is_an_error() -> None:
    found = [*pooled(answering, range(9), 2)]  # type: ignore[arg-type]
    assert [piece for piece, _ in found] == [*range(9)]
    with pytest.raises(WorkerDied, match="goes on from there"):
        [*pooled(answering, ["die"], 1)]  # type: ignore[arg-type]


def test_work_is_drawn_no_further_ahead_than_workers_need() -> None:
    drawn = []

    def work() -> object:
        for i in range(100):
            drawn.append(i)
            yield i

    results = pooled(answering, work(), 1)  # type: ignore[arg-type, var-annotated]
    next(results)
    assert len(drawn) <= 3
    results.close()


def test_a_file_of_another_codec_is_not_imported(corpus: Path, tmp_path: Path) -> None:
    [*plan(corpus).into_file(tmp_path / "a.jsonl")]
    with NextMem.open(":memory:", codec="mini-dense") as memory, pytest.raises(CodecMismatch):
        memory.scope("a").import_(tmp_path / "a.jsonl")
