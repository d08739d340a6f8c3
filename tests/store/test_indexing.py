"""The Chroma index: behind the records, mended from them, and never the reason that one is lost."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest

from nextmem_agents.errors import StoreError
from nextmem_agents.store.chroma import ChromaIndex
from nextmem_agents.store.exact import unit
from nextmem_agents.store.indexing import FLUSH_AT


@pytest.fixture
def store(open_store, record):
    store = open_store(exact_limit=1)
    store.put("alice", [record(f"m{i}") for i in range(10)])
    return store


def ids_in_chroma(folder, fingerprint="f1"):
    index = ChromaIndex(folder / "chroma", 8, fingerprint)
    index.connect()
    try:
        return index.ids()
    finally:
        index.close()


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
    assert (folder / "chroma").exists()
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
    assert "rebuilding" in caplog.text
    store.put("alice", [record("later")])
    expected = ids_of(store)
    store.close()
    assert ids_in_chroma(folder) == expected


def test_missing_and_extra_vectors_are_mended(store, open_store, folder, vector, caplog):
    expected = ids_of(store)
    store.close()
    index = ChromaIndex(folder / "chroma", 8, "f1")
    index.connect()
    index.delete(sorted(expected)[:3])
    index.upsert(["999.0"], ["alice"], np.ones((1, 8), dtype=np.float32))
    index.close()
    store = open_store(exact_limit=1)
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
def test_a_failing_index_loses_and_hides_nothing(store, folder, record, vector, caplog, monkeypatch, method):
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
    needle = unit(vector("m3")).tobytes()
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
        ChromaIndex(None, 8, "f").query("", np.ones(8, dtype=np.float32), 1)


def test_large_scopes_are_answered_by_the_index(store, vector, monkeypatch):
    asked = []
    query = ChromaIndex.query
    monkeypatch.setattr(ChromaIndex, "query", lambda *args: asked.append(args[1]) or query(*args))
    assert nearest_id(store, vector, "m4") == "m4"
    assert asked == ["alice"]
