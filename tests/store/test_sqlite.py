from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from nextmem_agents.errors import NewerFormat, StoreError
from nextmem_agents.store.sqlite import APPLICATION_ID, FORMAT


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def pragma(folder, text):
    with closing(sqlite3.connect(folder / "records.sqlite3")) as connection:
        return connection.execute(f"PRAGMA {text}").fetchone()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_format_is_refused_and_left_untouched(open_store, folder, record, read_only):
    store = open_store()
    store.put("alice", [record("a")])
    store.close()
    pragma(folder, f"user_version = {FORMAT + 1}")
    before = bytes_of(folder)
    with pytest.raises(NewerFormat, match="upgrade nextmem-agents"):
        open_store(read_only=read_only)
    after = bytes_of(folder)
    assert after["records.sqlite3"] == before["records.sqlite3"]
    assert not after.get("records.sqlite3-wal")
    pragma(folder, f"user_version = {FORMAT}")
    assert open_store().count("alice") == 1


@pytest.mark.parametrize("content", [b"garbage" * 5000, b"SQLite format 3\0" + b"\xff" * 20_000])
def test_a_damaged_file_is_named_and_left_untouched(open_store, folder, content):
    folder.mkdir()
    (folder / "records.sqlite3").write_bytes(content)
    with pytest.raises(StoreError, match=r"records\.sqlite3"):
        open_store()
    assert (folder / "records.sqlite3").read_bytes() == content


def test_another_programs_database_is_refused(open_store, folder):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "records.sqlite3")) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = bytes_of(folder)
    with pytest.raises(StoreError, match="another program"):
        open_store()
    assert bytes_of(folder) == before


def test_a_crash_in_the_first_opening_leaves_a_folder_that_opens(open_store, folder, record):
    folder.mkdir()
    (folder / "records.sqlite3").touch()
    store = open_store()
    store.put("alice", [record("a")])
    assert store.count("alice") == 1


def test_a_file_is_no_folder(open_store, folder):
    folder.write_text("a file")
    with pytest.raises(StoreError, match="not a folder"):
        open_store()
    assert folder.read_text() == "a file"


@pytest.mark.parametrize("where", ["/proc/nextmem", "/dev/null/nextmem"])
def test_a_folder_that_cannot_be_made_is_a_clear_error(open_store, where):
    with pytest.raises(StoreError, match="cannot be made"):
        open_store(where)


def test_the_file_is_durable_and_says_what_it_is(open_store, folder):
    store = open_store()
    assert pragma(folder, "journal_mode") == ("wal",)
    assert pragma(folder, "application_id") == (APPLICATION_ID,)
    with store._folder.database.transaction() as sql:
        for name, value in {"synchronous": 2, "secure_delete": 1, "foreign_keys": 1}.items():
            assert sql.execute(f"PRAGMA {name}").fetchone() == (value,)


def test_forgotten_bytes_are_overwritten(open_store, folder, record):
    store = open_store()
    store.put("alice", [record("a secret payload", "m")])
    store.forget("alice", ids=["m"])
    store.close()
    assert b"secret" not in (folder / "records.sqlite3").read_bytes()
