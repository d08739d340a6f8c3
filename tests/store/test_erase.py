"""After ``erase`` no file of the store holds a byte of the scope, and the same search finds each of them before."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest

from nextmem_agents.errors import StoreError
from nextmem_agents.store.hnsw_files import zero_spare
from nextmem_agents.store.scanning import find_bytes, find_bytes_apart
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import indexed, kept

TEXTS = [f"Zanzibar quokka {i}. Xylophone marmalade {i}" for i in range(40)]


def files_of(folder):
    return [file for file in folder.rglob("*") if file.is_file()]


def traces(vector):
    """By kind: bytes that only the scope to erase has."""
    vectors = [vector(part) for text in TEXTS for part in text.split(". ")]
    return {
        "payload": [part.encode() for text in TEXTS for part in text.split(". ")],
        "vector": [kept(v).tobytes() for v in vectors],
        "unit vector": [indexed(v) for v in vectors],
        "terms": [b"zanzibar", b"quokka", b"xylophone", b"marmalade"],
        "metadata": [b"tag-of-alice"],
        "scope": [b"alice-in-wonderland"],
    }


def fill(store, record):
    records = [record(text, f"a{i}", metadata={"tag": "tag-of-alice"}) for i, text in enumerate(TEXTS)]
    store.put("alice-in-wonderland", records)
    store.put("alice-in-wonderland", [record("Replaced. Indeed", "a0")])  # the first text is history now
    store.put("bob", [record(f"Bob keeps this {i}", f"b{i}") for i in range(300)])
    store.flush()


def test_no_byte_is_left_and_the_search_would_have_found_it(open_store, folder, record, vector, texts):
    with open_store() as store:
        fill(store, record)
    store = open_store()
    of_bob = texts(store, "bob")
    before = {kind: find_bytes(files_of(folder), needles) for kind, needles in traces(vector).items()}
    for kind, found in before.items():
        assert found, f"the positive control finds no {kind}"
    assert before["payload"] == set(traces(vector)["payload"])
    assert before["vector"]
    assert before["unit vector"]

    receipt = store.erase("alice-in-wonderland")

    assert (receipt.memories, receipt.versions, receipt.chunks) == (40, 41, 82)
    assert receipt.proven
    assert receipt.files >= 5
    assert receipt.bytes_read > 100_000
    assert receipt.not_proven
    for kind, needles in traces(vector).items():
        assert find_bytes(files_of(folder), needles) == set(), kind
    assert texts(store, "bob") == of_bob
    assert store.count("alice-in-wonderland") == 0
    assert store.nearest("bob", vector("Bob keeps this 7"), 1)[0][1] == pytest.approx(1.0)
    report = store.verify(lambda *_: None)
    assert report.sound
    assert (report.n_memories, report.index_missing, report.index_extra) == (300, 0, 0)
    # What this process still has in its memory does not come to the disk with later writes, either.
    store.put("bob", [record(f"Bob goes on {i}", f"c{i}") for i in range(300)])
    store.close()
    for kind, needles in traces(vector).items():
        assert find_bytes(files_of(folder), needles) == set(), kind


def test_the_same_words_of_another_scope_are_no_remains(open_store, record):
    store = open_store()
    for scope in ("alice", "bob"):
        store.put(scope, [record("We both said exactly these words")])
    assert store.erase("alice").proven
    assert store.count("bob") == 1


@pytest.mark.parametrize("moment", ["rewrite", "make_elsewhere"])
def test_an_erasure_that_was_killed_is_finished_by_the_next_opening(
    open_store, folder, process, record, vector, texts, moment
):
    with open_store() as store:
        fill(store, record)
        of_bob = texts(store, "bob")
    child = process(
        f"""
import os
from nextmem_agents.store.indexing import Indexer
from nextmem_agents.store.sqlite import Database
store = open_store()
setattr({"Database" if moment == "rewrite" else "Indexer"}, {moment!r}, lambda *_: os._exit(9))
store.erase("alice-in-wonderland")
"""
    )
    output, _ = child.communicate(timeout=240)
    assert child.returncode == 9, output
    if moment == "rewrite":
        assert find_bytes(files_of(folder), traces(vector)["unit vector"])
    store = open_store()
    assert store.scopes() == ["bob"]
    assert texts(store, "bob") == of_bob
    for kind, needles in traces(vector).items():
        assert find_bytes(files_of(folder), needles) == set(), kind


def test_a_store_in_memory_and_an_empty_scope_are_erased_too(open_store, record):
    store = open_store(":memory:")
    store.put("alice", [record("x")])
    assert (store.erase("alice").memories, store.erase("alice").memories) == (1, 0)
    assert store.scopes() == []


def test_compact_gives_disk_back(open_store, record):
    store = open_store()
    store.put("a", [record(f"long text {i} " * 50, f"{i}") for i in range(300)])
    store.flush()
    before = sum(store.sizes()[part] for part in ("records", "chroma"))
    store.forget("a", ids=[f"{i}" for i in range(290)])
    store.compact()
    assert sum(store.sizes()[part] for part in ("records", "chroma")) < before / 2
    assert store.count("a") == 10
    assert store.verify(lambda *_: None).sound


def test_a_failing_process_is_an_error_and_the_erasure_stays_pending(open_store, record, monkeypatch):
    store = open_store()
    store.put("alice", [record(f"text {i}") for i in range(300)])
    store.flush()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(StoreError, match="index"):
        store.erase("alice")
    assert store.count("alice") == 0
    monkeypatch.undo()
    assert store.erase("alice").proven


def test_the_process_keeps_the_locks_by_which_other_ones_know_that_it_is_there(
    open_store, folder, record, texts
):
    store = open_store()
    store.put("alice", [record("Alice keeps this", "a")])
    store.put("bob", [record("Bob goes", "b")])
    store.erase("bob")
    store.put("alice", [record("Alice keeps this, too", "a2")])
    wal = folder / "records.sqlite3-wal"
    assert wal.stat().st_size
    # Who is alone with a database writes its log into it when leaving, and removes the log.
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM scopes'); c.close()"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "records.sqlite3")], check=True)
    assert wal.exists()
    assert len(texts(store, "alice")) == 2


def test_what_cannot_be_read_is_said_by_the_process_that_reads(tmp_path):
    with pytest.raises(StoreError, match="cannot be read to prove"):
        find_bytes_apart([tmp_path], [bytes(range(24))])


def test_find_bytes_sees_every_place_and_alignment(tmp_path):
    rng = np.random.default_rng(0)
    data = bytearray(rng.bytes(100_000))
    needles = [rng.bytes(24) for _ in range(20)]
    for i, needle in enumerate(needles[:16]):
        start = i * 6_001 + i
        data[start : start + 24] = needle
    data[-24:] = needles[16]
    file = tmp_path / "f"
    file.write_bytes(data)
    assert find_bytes([file, tmp_path / "absent"], needles) == set(needles[:17])
    assert find_bytes_apart([file, tmp_path / "absent"], needles) == set(needles[:17])
    assert find_bytes([file], []) == set()


def test_find_bytes_sees_what_lies_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("nextmem_agents.store.scanning.BLOCK", 64)
    file = tmp_path / "f"
    needle = b"0123456789abcdefghijklmn"
    for start in range(40, 80):
        file.write_bytes(bytes(start) + needle + bytes(100))
        assert find_bytes([file], [needle]) == {needle}


def make_graph(folder):
    """Files as hnswlib writes them, of 4 elements of 8 bytes with room for 10; the room holds a secret."""
    (folder / "header.bin").write_bytes(struct.pack("<iQQQQ", 1, 0, 10, 4, 8) + bytes(20))
    level, length = folder / "data_level0.bin", folder / "length.bin"
    level.write_bytes(b"d" * 32 + b"secret!!" * 6)
    length.write_bytes(b"l" * 16 + b"secr" * 6)
    return level, length


def test_spare_room_of_a_graph_is_cleared(tmp_path):
    level, length = make_graph(tmp_path)
    assert zero_spare(tmp_path) == 48 + 24
    assert level.read_bytes() == b"d" * 32 + bytes(48)
    assert length.read_bytes() == b"l" * 16 + bytes(24)
    assert zero_spare(tmp_path) == 0


def test_a_folder_whose_payloads_lie_in_chroma_is_left_without_spare_room(tmp_path):
    store = ServerStore.open_folder(tmp_path, dim=8, fingerprint="f", codec_name="c")
    graph = tmp_path / "collection" / "graph"
    graph.mkdir()
    level, length = make_graph(graph)
    store.close()
    assert b"secret" not in level.read_bytes()
    assert b"secr" not in length.read_bytes()
