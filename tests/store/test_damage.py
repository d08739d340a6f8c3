"""Damage to the files: a clear error or a repair, and nothing is lost that is still on disk."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from datetime import datetime, timezone

import numpy as np
import pytest

from nextmem_agents.errors import DamagedRecord, DamagedStore, NextMemError, StoreError
from nextmem_agents.store import EmbeddedStore, clock
from nextmem_agents.store.sqlite import APPLICATION_ID, FORMAT

TEXTS = [f"text {i}" for i in range(300)]


@pytest.fixture
def written(open_store, record, folder):
    with open_store() as store:
        store.put("alice", [record(text) for text in TEXTS])
    return folder


def database(folder):
    return folder / "records.sqlite3"


def test_a_missing_index_is_made_anew(written, open_store, texts, vector):
    shutil.rmtree(written / "chroma")
    store = open_store(exact_limit=1)
    assert texts(store, "alice") == TEXTS
    assert store.nearest("alice", vector("text 7"), 1)[0][1] == pytest.approx(1)
    assert store.verify(lambda *_: None).sound


def test_an_index_of_another_dimension_is_made_anew(written, open_store, texts, vector, caplog):
    from nextmem_agents.store.chroma import SHARED, ChromaIndex

    shutil.rmtree(written / "chroma")
    index = ChromaIndex(written / "chroma", 3, "f1")
    index.connect()
    index.upsert(SHARED, [f"{i}.0" for i in range(300)], ["alice"] * 300, np.ones((300, 3), dtype=np.float32))
    index.close()
    store = open_store(exact_limit=1)
    assert store.nearest("alice", vector("text 7"), 1)[0][1] == pytest.approx(1)
    assert texts(store, "alice") == TEXTS
    assert store.verify(lambda *_: None).sound


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_database_is_an_error_and_stays_as_it_is(written, open_store, keep):
    file = database(written)
    size = file.stat().st_size
    os.truncate(file, int(size * keep))
    before = file.read_bytes()

    def read_everything():
        with open_store() as store:
            report = store.verify(lambda *_: None)
            assert not report.sound, "nothing seems to be missing"
            raise StoreError(f"records.sqlite3: {report.damaged}")

    with pytest.raises(NextMemError, match=r"records\.sqlite3"):
        read_everything()
    assert file.read_bytes()[: len(before)][:100] == before[:100]


@pytest.mark.parametrize("emptied", [False, True])
def test_a_lost_database_of_which_the_log_is_left_is_no_new_store(open_store, record, folder, emptied):
    store = open_store()
    store.put("a", [record("kept", "1")])
    log = (folder / "records.sqlite3-wal").read_bytes()
    assert log
    store.close()
    for file in folder.rglob("*"):
        if file.is_file():
            file.unlink()
    shutil.rmtree(folder / "chroma", ignore_errors=True)
    (folder / "records.sqlite3-wal").write_bytes(log)
    if emptied:
        (folder / "records.sqlite3").touch()
    with pytest.raises(DamagedStore, match="restore the folder"):
        open_store()
    assert (folder / "records.sqlite3-wal").read_bytes() == log


def test_flipped_bits_never_give_a_wrong_record_silently(written, open_store, texts):
    """One bit in each of 12 places: either an error that names the file, or verify tells, or nothing was touched."""
    file = database(written)
    whole = file.read_bytes()
    rng = np.random.default_rng(3)
    for place in rng.integers(100, len(whole), 12):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        shutil.rmtree(written / "chroma", ignore_errors=True)
        try:
            with open_store() as store:
                stored = texts(store, "alice")

                def check(scope, record, payloads):
                    return None if b". ".join(payloads).decode() == record.id else "another text"

                report = store.verify(check)
                if stored != TEXTS:
                    assert report.damaged or report.n_memories != len(TEXTS)
        except (NextMemError, UnicodeDecodeError) as error:
            logging.getLogger(__name__).info("bit %d: %s", place, error)
    file.write_bytes(whole)
    with open_store() as store:
        assert texts(store, "alice") == TEXTS


@pytest.mark.timeout(900)
def test_rows_that_only_the_graph_has_lost_are_found_and_mended(open_store, folder, record, vector):
    with open_store(exact_limit=1) as store:
        store.put("alice", [record(f"early {i}") for i in range(1_100)])
        store.flush()
    early = {
        file: file.read_bytes()
        for file in (folder / "chroma").rglob("*")
        if file.is_file() and file.suffix in {".bin", ".pickle"}
    }
    assert early, "Chroma has not written its graph yet"
    with open_store(exact_limit=1) as store:
        store.put("alice", [record(f"late {i}") for i in range(1_100)])
    for file, content in early.items():
        file.write_bytes(content)
    store = open_store(exact_limit=1)
    report = store.verify(lambda *_: None)
    assert report.index_missing > 0
    assert report.repaired
    again = store.verify(lambda *_: None)
    assert (again.index_missing, again.index_wrong, again.sound) == (0, 0, True)
    assert store.nearest("alice", vector("late 17"), 1)[0][1] == pytest.approx(1)


def test_another_vector_in_the_index_is_found_and_mended(written, open_store):
    from nextmem_agents.store.chroma import SHARED, ChromaIndex

    index = ChromaIndex(written / "chroma", 8, "f1")
    index.connect()
    index.upsert(SHARED, ["5.0"], ["alice"], np.eye(8, dtype=np.float32)[:1])
    index.upsert(SHARED, ["999.0"], ["alice"], np.eye(8, dtype=np.float32)[:1])
    index.close()
    report = open_store().verify(lambda *_: None)
    assert (report.index_wrong, report.index_extra, report.repaired) == (1, 1, True)


def test_a_full_disk_is_an_error_and_keeps_what_was_there(open_store, record, texts):
    store = open_store()
    store.put("alice", [record("before")])
    connection = store._folder.database._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")  # what a full disk is to SQLite
    with pytest.raises(StoreError, match="full"):
        store.put("alice", [record(f"many {i} " * 100, f"{i}") for i in range(500)])
    assert texts(store, "alice") == ["before"]
    connection.execute("PRAGMA max_page_count = 1073741823")
    store.put("alice", [record("after")])
    assert texts(store, "alice") == ["before", "after"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_read_with_read_only(written, open_store, texts):
    os.chmod(written, 0o500)
    try:
        with pytest.raises(StoreError, match="read_only"):
            open_store()
        assert texts(open_store(read_only=True), "alice") == TEXTS
    finally:
        os.chmod(written, 0o700)


def test_a_clock_that_is_set_back_loses_nothing(open_store, record, monkeypatch, texts):
    with open_store() as store:
        store.put("alice", [record("one", "m"), record("two")])
    past = datetime(2001, 1, 1, tzinfo=timezone.utc)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return past

    monkeypatch.setattr(clock, "datetime", Clock)
    monkeypatch.setattr(clock, "_latest", past)
    store = open_store()
    assert texts(store, "alice") == ["one", "two"]
    store.put("alice", [record("three", "m")])
    assert texts(store, "alice") == ["two", "three"]
    former, present = store.history("alice", "m")
    assert present.version > former.version
    assert store.count("alice") == 2


def as_format_2(connection):
    """Undo what format 3 changed."""
    connection.create_function(
        "floats", 1, lambda data: np.frombuffer(data, "<f2").astype("<f4").tobytes(), deterministic=True
    )
    connection.executescript(
        """
        UPDATE vectors SET vector = floats(vector);
        UPDATE archive SET vectors = floats(vectors);
        DROP INDEX vectors_pending; DROP TABLE removals; ALTER TABLE scopes DROP COLUMN own;
        CREATE INDEX vectors_pending ON vectors (version, chunk) WHERE indexed = 0;
        CREATE TABLE removals (version INTEGER PRIMARY KEY, n_chunks INTEGER NOT NULL);
        INSERT INTO removals VALUES (77, 1);
        PRAGMA user_version = 2;
        """
    )


def test_a_folder_of_format_2_is_upgraded_with_all_it_holds(folder, open_store, record, texts, vector):
    with open_store() as store:
        store.put("alice", [record("one", "m"), record("three. four")])
        store.put("alice", [record("two", "m")])
        before = [*store.dump("alice")]
    connection = sqlite3.connect(database(folder))
    as_format_2(connection)
    connection.close()
    store = open_store(exact_limit=1)
    assert texts(store, "alice") == ["three. four", "two"]
    for old, new in zip(before, store.dump("alice"), strict=True):
        np.testing.assert_array_equal(old.vectors, new.vectors)
    store.flush()
    assert store.nearest("alice", vector("four"), 1)[0][1] == pytest.approx(1)
    assert store.verify(lambda *_: None).sound


def test_a_folder_of_format_1_is_upgraded_with_all_it_holds(folder, open_store, record, texts):
    with open_store() as store:
        store.put("alice", [record("one", "m", metadata={"n": 1})])
        store.put("alice", [record("two", "m", metadata={"n": 2}), record("three")])
    connection = sqlite3.connect(database(folder))
    as_format_2(connection)
    for index in ("lengths", "ending", "expiring", "by_digest"):
        connection.execute(f"DROP INDEX memories_{index}")
    for table in ("archive", "accesses", "erasures"):
        connection.execute(f"DROP TABLE {table}")
    columns = "valid_from valid_to expires_at importance written_by derived_from supersedes digest".split()
    for column in columns:
        connection.execute(f"ALTER TABLE memories DROP COLUMN {column}")
    connection.execute("CREATE INDEX memories_lengths ON memories (scope, version, length) WHERE current = 1")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="open it for writing once"):
        EmbeddedStore.open(folder, dim=8, fingerprint="f1", codec_name="mini", read_only=True)
    store = open_store()
    assert texts(store, "alice") == ["two", "three"]
    former, present = store.history("alice", "m")
    assert former.valid_to == present.valid_from == present.updated_at
    assert [record.metadata for record in store.list("alice", as_of=former.updated_at)] == [{"n": 1}]
    connection = sqlite3.connect(database(folder))
    assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"), [("frequency", "two"), ("frequency", "1,1"), ("frequency", 1.5), ("version", 2.5)]
)
def test_a_damaged_posting_is_an_error_and_no_wrong_rank(written, open_store, column, value):
    with sqlite3.connect(database(written)) as sql:
        sql.execute("PRAGMA foreign_keys = OFF")
        sql.execute(f"UPDATE postings SET {column} = ? WHERE term = 'text' AND version = 7", (value,))  # noqa: S608
    sql.close()
    store = open_store()
    with pytest.raises(DamagedRecord, match="lexical index is damaged"):
        store.postings("alice", ["text"])
    assert store.postings("alice", ["7"]).terms["7"].document_frequency == 1
