"""Damage to a folder whose payloads lie in Chroma: a clear error, or all texts are still there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nextmem_agents.errors import StoreError
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import record_of, vector_of

TEXTS = [f"text {i}" for i in range(1_100)]  # from 1,000 on Chroma writes its graph


def open_folder(folder: Path) -> ServerStore:
    return ServerStore.open_folder(folder, dim=8, fingerprint="f1", codec_name="mini")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chroma") / "memory"
    with open_folder(folder) as store:
        store.put("alice", [record_of(text) for text in TEXTS])
    return folder


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "memory")
    return tmp_path / "memory"


@pytest.mark.parametrize(
    "damage",
    [lambda file: os.truncate(file, file.stat().st_size // 2), lambda file: file.write_bytes(b"x" * 9_000)],
)
def test_a_damaged_database_is_an_error_and_stays_as_it_is(
    damaged: Path, damage: Callable[[Path], object]
) -> None:
    [file] = damaged.rglob("chroma.sqlite3")
    damage(file)
    before = file.read_bytes()
    with pytest.raises(StoreError, match="cannot open"):
        open_folder(damaged)
    assert file.read_bytes() == before


def test_a_lost_graph_takes_no_text_with_it(damaged: Path) -> None:
    """The vectors are in the graph alone; what was remembered is read and found by its words."""
    [header] = damaged.rglob("header.bin")
    shutil.rmtree(header.parent)
    with open_folder(damaged) as store:
        records = list(store.list("alice"))
        assert [record.id for record in records] == TEXTS
        assert store.payloads("alice", [records[7].version]) == {records[7].version: [b"text 7"]}
        assert records[7].version in store.postings("alice", ["7"]).terms["7"].versions
        report = store.verify(lambda *_: None)
        assert (report.n_memories, report.damaged, report.sound) == (len(TEXTS), (), False)
        store.put("alice", [record_of("written afterwards")])
        assert store.nearest("alice", vector_of("written afterwards"), 1)[0][1] == pytest.approx(1, abs=1e-6)
