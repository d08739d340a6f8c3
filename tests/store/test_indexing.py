"""The Chroma index: behind the records, mended from them, and never the reason that one is lost."""

from __future__ import annotations

import logging
import shutil
import threading
import time

import numpy as np
import pytest

from nextmem_agents.errors import StoreError
from nextmem_agents.store.chroma import SHARED, ChromaIndex
from nextmem_agents.store.indexing import FLUSH_AT
from tests.store.conftest import indexed


@pytest.fixture
def store(open_store, record):
    store = open_store(exact_limit=1)
    store.put("alice", [record(f"m{i}") for i in range(10)])
    store.flush()
    return store


def ids_in_chroma(folder, fingerprint="f1"):
    index = ChromaIndex(folder / "chroma", 8, fingerprint)
    index.connect()
    try:
        return {id_ for key in index.keys for id_ in index.ids(key)}
    finally:
        index.close()


def ids_waiting(store):
    with store._folder.mutex, store._folder.database.transaction() as sql:
        return sql.execute("SELECT COUNT(*) FROM vectors WHERE indexed = 0").fetchone()[0]


def ids_of(store, scope="alice"):
    return {f"{found.version}.{i}" for found in store.list(scope) for i in range(found.n_chunks)}


def nearest_id(store, vector, text):
    [(version, _)] = store.nearest("alice", vector(text), 1)
    return store.records("alice", [version])[version].id


def test_closing_leaves_the_index_equal_to_the_records(store, folder, record):
    store.put("alice", [record("m1 changed. twice", "m1")])
    store.forget("alice", ids=["m2"])
    expected = ids_of(store)
    store.close()
    assert ids_in_chroma(folder) == expected


def test_vectors_are_indexed_once_enough_wait(open_store, folder, record):
    store = open_store()
    store.put("alice", [record(f"m{i}") for i in range(FLUSH_AT - 1)])
    assert not (folder / "chroma").exists()
    store.put("alice", [record("one more")])
    for _ in range(600):  # a thread does it
        if ids_waiting(store) == 0:
            break
        time.sleep(0.1)
    assert ids_waiting(store) == 0
    assert store.sizes()["chroma"] > 0


def test_a_lost_folder_is_rebuilt(store, open_store, folder, vector, caplog):
    expected = ids_of(store)
    store.close()
    shutil.rmtree(folder / "chroma")
    store = open_store(exact_limit=1)
    assert "rebuilding" in caplog.text
    assert nearest_id(store, vector, "m7") == "m7"
    store.close()
    assert ids_in_chroma(folder) == expected


def test_a_folder_that_chroma_cannot_open_is_rebuilt(store, open_store, folder, record, vector, caplog):
    store.close()
    (folder / "chroma" / "chroma.sqlite3").write_bytes(b"garbage" * 1000)
    store = open_store(exact_limit=1)
    assert nearest_id(store, vector, "m7") == "m7"
    store.put("alice", [record("later")])
    store.flush()
    assert "rebuilding" in caplog.text
    expected = ids_of(store)
    store.close()
    assert ids_in_chroma(folder) == expected


def test_missing_and_extra_vectors_are_mended(store, open_store, folder, record, vector, caplog):
    expected = ids_of(store)
    store.close()
    index = ChromaIndex(folder / "chroma", 8, "f1")
    index.connect()
    [_, alice] = index.keys
    index.delete(alice, sorted(expected)[:3])
    index.upsert(alice, ["999.0"], ["alice"], np.ones((1, 8), dtype=np.float32))
    index.close()
    store = open_store(exact_limit=1)
    store.put("bob", [record("waits for the index")])
    store.flush()
    store.forget("bob", ids=["waits for the index"])
    assert nearest_id(store, vector, "m7") == "m7"
    assert "lacks 3 vectors and has 1 too many" in caplog.text
    store.close()
    assert ids_in_chroma(folder) == expected


def test_an_index_of_another_codec_is_dropped(store, open_store, folder, vector):
    expected = ids_of(store)
    store.close()
    assert ids_in_chroma(folder, fingerprint="f2") == set()
    store = open_store(exact_limit=1)
    assert nearest_id(store, vector, "m7") == "m7"
    store.close()
    assert ids_in_chroma(folder) == expected


def failing(*args, **kwargs):
    raise StoreError("Chroma failed to index vectors: disk full")


@pytest.mark.parametrize("method", ["connect", "upsert", "query", "delete", "count"])
def test_a_failing_index_loses_and_hides_nothing(
    store, open_store, folder, record, vector, caplog, monkeypatch, method
):
    store.close()
    store = open_store(exact_limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(ChromaIndex, method, failing)
        store.put("alice", [record(f"new {i}") for i in range(FLUSH_AT + 1)])
        store.put("alice", [record("m1 changed", "m1")])
        store.flush()
        assert nearest_id(store, vector, "new 3") == "new 3"
        assert nearest_id(store, vector, "m1 changed") == "m1"
        assert "disk full" in caplog.text
        assert {each.levelno for each in caplog.records} == {logging.WARNING}
    store.flush()
    expected = ids_of(store)
    store.close()
    assert ids_in_chroma(folder) == expected


def test_what_could_not_be_indexed_is_indexed_by_the_next_opening(store, open_store, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ChromaIndex, "upsert", failing)
        expected = ids_of(store)
        store.close()
    open_store()
    assert ids_in_chroma(folder) == expected


def test_rebuild_makes_the_index_anew_and_reports(store, folder, vector):
    store.flush()
    calls = []
    assert store.rebuild(lambda done, total: calls.append((done, total))) == 10
    assert calls[-1] == (10, 10)
    assert nearest_id(store, vector, "m7") == "m7"


def test_rebuild_leaves_no_row_of_a_forgotten_vector(store, folder, vector):
    needle = indexed(vector("m3"))
    store.flush()
    assert needle in b"".join(file.read_bytes() for file in (folder / "chroma").rglob("*") if file.is_file())
    store.forget("alice", ids=["m3"])
    store.rebuild()
    store.close()
    # Chroma saves data_level0.bin with its spare capacity, which is whatever this process's memory last held
    # there: a proof of erasure needs a rebuild in a process that has never seen the vector.
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "data_level0.bin"]
    assert not [file for file in files if needle in file.read_bytes()]
    assert len(ids_in_chroma(folder)) == 9


def test_the_index_is_asked_within_a_scope_only(store):
    with pytest.raises(ValueError, match="needs a scope"):
        ChromaIndex(None, 8, "f").query(SHARED, np.ones(8, dtype=np.float32), 1)


def test_large_scopes_are_answered_by_the_index(store, vector, monkeypatch):
    asked = []
    query = ChromaIndex.query
    monkeypatch.setattr(ChromaIndex, "query", lambda *args: asked.append(args[1]) or query(*args))
    assert nearest_id(store, vector, "m4") == "m4"
    assert len(asked) == 1


def test_scopes_that_become_large_move_to_a_collection_of_their_own(open_store, folder, record, vector):
    with open_store(exact_limit=12) as store:
        store.put("alice", [record(f"m{i}") for i in range(10)])
        store.put("bob", [record(f"b{i}") for i in range(10)])
        store.flush()
        store.put("alice", [record(f"m{i}") for i in range(10, 20)])
        store.forget("alice", ids=["m0"])
        store.flush()
        alice, bob = ids_of(store), ids_of(store, "bob")
        assert nearest_id(store, vector, "m4") == "m4"
        assert store.verify(lambda *_: None).sound
    index = ChromaIndex(folder / "chroma", 8, "f1")
    index.connect()
    shared, own = index.keys
    assert (index.ids(shared), index.ids(own)) == (bob, alice)
    index.close()
    with open_store(exact_limit=12) as store:
        store.clear("alice")
        store.flush()
        assert store.verify(lambda *_: None).sound
    assert ids_in_chroma(folder) == bob


def test_what_waits_for_the_index_is_found_at_once(store, record, vector, monkeypatch):
    monkeypatch.setattr(ChromaIndex, "upsert", failing)
    store.put("alice", [record("the latest")])
    assert nearest_id(store, vector, "the latest") == "the latest"
    assert nearest_id(store, vector, "m4") == "m4"


def test_writing_goes_on_while_the_index_is_slow(open_store, record, vector, monkeypatch):
    """A thread takes what waits: neither a put nor a search waits for it."""
    going = threading.Event()
    upsert = ChromaIndex.upsert
    monkeypatch.setattr(ChromaIndex, "upsert", lambda *args: going.wait(60) and upsert(*args))
    store = open_store(exact_limit=1)
    store.put("alice", [record(f"m{i}") for i in range(FLUSH_AT + 1)])
    store.put("alice", [record("later")])
    assert nearest_id(store, vector, "later") == "later"
    assert ids_waiting(store) == FLUSH_AT + 2
    going.set()
    store.flush()
    assert ids_waiting(store) == 0
