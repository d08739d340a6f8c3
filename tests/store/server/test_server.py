"""What only the server layout promises: many processes, one collection, and errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from nextmem_agents.errors import (
    MemoryNotFound,
    NewerFormat,
    StoreError,
)
from nextmem_agents.store import server_commit, server_replica
from nextmem_agents.store.server import ServerStore
from nextmem_agents.store.server_connection import Collection
from tests.store.conftest import DIM

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def ids_of(store, scope="alice"):
    return [record.id for record in store.list(scope)]


def rows_of(store, where):
    """The raw rows of the store's collection."""
    return store._shared.base.rows(where)


def test_another_process_sees_each_write_at_once(connect, record, vector, texts):
    here, there = connect(), connect()
    here.put("alice", [record("one", "a"), record("two", "b")])
    assert texts(there, "alice") == ["one", "two"]
    there.put("alice", [record("one, corrected", "a")])
    here.put("alice", [record("three", "c")])
    for store in (here, there):
        assert texts(store, "alice") == ["two", "one, corrected", "three"]
        assert len(store.history("alice", "a")) == 2
        assert store.nearest("alice", vector("three"), 1)[0][1] == pytest.approx(1.0, abs=1e-6)
        assert store.postings("alice", ["one"]).n_memories == 3
    assert here.forget("alice", ids=["b"]) == 1
    with pytest.raises(MemoryNotFound):
        there.get("alice", ["b"])
    assert there.clear("alice") == 2
    assert (here.count("alice"), here.scopes(), there.scopes()) == (0, [], [])


def test_writers_in_many_processes_lose_nothing(chroma_server, collection, connect, vector):
    script = textwrap.dedent(
        f"""
        import sys
        from tests.store.conftest import DIM, record_of
        from nextmem_agents.store.server import ServerStore
        name = sys.argv[1]
        with ServerStore.open({chroma_server.url!r}, dim=DIM, fingerprint="f1", codec_name="mini",
                              collection={collection!r}) as store:
            for i in range(10):
                store.put("shared", [record_of(f"{{name}} {{i}}"), record_of(f"{{name}} says {{i}}", "contested")])
            assert store.count("shared") >= 11
        """
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script, f"p{i}"], stderr=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for child in children:
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
    store = connect()
    assert sorted(ids_of(store, "shared")) == sorted(
        ["contested", *(f"p{i} {j}" for i in range(3) for j in range(10))]
    )
    assert len(store.history("shared", "contested")) == 30
    assert len({record.version for record in store.list("shared")}) == 31
    assert store.nearest("shared", vector("p1 7"), 1)[0][1] == pytest.approx(1.0, abs=1e-6)
    assert rows_of(store, {"kind": "writer"}) == []  # each gave its slot back


@pytest.fixture
def small_requests(monkeypatch):
    """Two rows to a request, so that a put of more is not one."""
    monkeypatch.setattr("nextmem_agents.store.server_connection.REQUEST_ROWS", 2)


def test_a_put_of_many_requests_is_seen_whole_or_not_at_all(small_requests, connect, record, monkeypatch):
    writer, reader = connect(), connect()
    writer.put("alice", [record("before")])
    upsert, seen = Collection.upsert, []

    def watched(collection, rows):
        seen.append(ids_of(reader))
        seen.append(ids_of(connect()))
        upsert(collection, rows)

    monkeypatch.setattr(Collection, "upsert", watched)
    writer.put("alice", [record(f"m{i}") for i in range(5)])
    assert seen == [["before"]] * 6
    assert ids_of(reader) == ["before", *(f"m{i}" for i in range(5))]


@pytest.mark.parametrize("dies", [False, True], ids=["fails", "dies"])
def test_a_put_that_stops_half_way_leaves_nothing(small_requests, connect, record, monkeypatch, dies):
    store = connect()
    store.put("alice", [record("before")])
    upsert, calls = Collection.upsert, []

    def failing(collection, rows):
        calls.append(rows)
        if len(calls) == 2:
            raise StoreError("the disk is full")
        upsert(collection, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "upsert", failing)
        if dies:
            patch.setattr(Collection, "delete", lambda *_, **__: None)
        with pytest.raises(StoreError, match=r"the disk is full.*Nothing of this write counts"):
            store.put("alice", [record(f"m{i}") for i in range(5)])
    assert len(rows_of(store, {"kind": "chunk"})) == (3 if dies else 1)
    for each in (store, connect()):
        assert ids_of(each) == ["before"]
    store.put("alice", [record("after")])
    assert ids_of(connect()) == ["before", "after"]


def test_what_a_dead_writer_left_unfinished_goes_with_the_next_owner_of_its_slot(
    connect, record, monkeypatch
):
    dead = connect()
    dead.put("alice", [record("counts")])
    shared = dead._shared
    [clock] = shared.replica._scopes["alice"].clocks.values()
    from datetime import datetime, timezone

    from nextmem_agents.store.server_rows import Stamp, chunk_rows

    half = chunk_rows(
        "alice", Stamp(clock.slot, clock.seq + 1), 77, record("half"), datetime.now(timezone.utc)
    )
    shared.base.upsert(half)
    monkeypatch.setattr("nextmem_agents.store.server_writers.EXPIRE", -1.0)  # its slot is free
    monkeypatch.setattr("random.choice", lambda free: clock.slot if clock.slot in free else free[0])
    heir = connect()
    assert ids_of(heir) == ["counts"]
    heir.put("alice", [record("next")])
    assert heir._shared.replica._scopes["alice"].clocks.keys() == {clock.slot}
    assert ids_of(connect()) == ["counts", "next"]
    assert {row.metadata["version"] for row in rows_of(heir, {"kind": "chunk"})}.isdisjoint({77})


def test_a_forgetting_that_is_killed_half_way_is_finished_by_the_next_one(connect, record, monkeypatch):
    store = connect()
    store.put("alice", [record("secret. story", "s"), record("kept")])
    with monkeypatch.context() as patch:
        patch.setattr(server_commit.Committer, "_remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.forget("alice", ids=["s"])
    reader = connect(read_only=True)
    assert ids_of(reader) == ["kept"]
    assert len(rows_of(store, {"kind": "chunk"})) == 3  # still there, and read by nobody
    assert ids_of(connect()) == ["kept"]
    assert len(rows_of(store, {"kind": "chunk"})) == 1


def test_what_the_server_does_not_delete_is_an_error(connect, record, monkeypatch):
    store = connect()
    store.put("alice", [record("secret")])
    monkeypatch.setattr(Collection, "delete", lambda *_, **__: None)
    with pytest.raises(StoreError, match="1 of 1 rows are still on the server"):
        store.forget("alice", ids=["secret"])
    assert store.count("alice") == 0


def test_old_forgettings_are_unlisted_and_others_still_follow(connect, record, monkeypatch):
    monkeypatch.setattr(server_commit, "LISTED", 2)
    store, other, late = connect(), connect(), connect()
    store.put("alice", [record(f"m{i}") for i in range(8)])
    assert late.count("alice") == 8
    for i in range(7):
        store.forget("alice", ids=[f"m{i}"])
        assert ids_of(other) == [f"m{j}" for j in range(i + 1, 8)]
    assert len(rows_of(store, {"kind": "forgotten"})) <= 2
    assert ids_of(late) == ids_of(connect()) == ["m7"]
    late.put("alice", [record("new")])
    assert ids_of(store) == ["m7", "new"]


def test_versions_from_a_clock_that_was_set_back_still_grow(connect, record, monkeypatch):
    store = connect()
    store.put("alice", [record("a")])
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    for each in (store, connect()):
        each.put("alice", [record("changed", "a"), record(f"new in {id(each)}")])
    versions = [found.version for found in store.history("alice", "a")]
    assert versions == sorted(set(versions))
    assert len(versions) == 3


def test_a_late_version_of_another_writer_becomes_history(connect, record, monkeypatch, texts):
    """A writer whose clock is behind, and who has not seen the other's version, does not undo it."""
    ahead, behind = connect(), connect()
    behind.put("alice", [record("first", "m")])
    assert ahead.count("alice") == 1
    sync = server_replica.Replica.sync

    def deaf(replica, scope, collection):
        return (
            replica._scopes[scope] if replica is behind._shared.replica else sync(replica, scope, collection)
        )

    with monkeypatch.context() as patch:
        patch.setattr(server_replica.Replica, "sync", deaf)
        now = time.time_ns()
        patch.setattr(time, "time_ns", lambda: now + 60 * 10**9)
        ahead.put("alice", [record("from ahead", "m")])
        patch.setattr(time, "time_ns", lambda: now)
        behind.put("alice", [record("from behind", "m")])
    for store in (ahead, behind, connect()):
        assert texts(store, "alice") == ["from ahead"]
        assert len(store.history("alice", "m")) == 3


def test_threads_that_write_at_once_share_a_request(connect, record, monkeypatch):
    store = connect()
    store.put("alice", [record("first")])
    upsert, sizes, go = Collection.upsert, [], threading.Event()

    def slow(collection, rows):
        sizes.append(len(rows))
        if len(sizes) == 1:
            go.wait(10)
        upsert(collection, rows)

    monkeypatch.setattr(Collection, "upsert", slow)
    threads = [threading.Thread(target=store.put, args=("alice", [record(f"m{i}")])) for i in range(20)]
    for thread in threads:
        thread.start()
    while len(store._shared.committer._waiting) < 19:
        time.sleep(0.005)
    go.set()
    for thread in threads:
        thread.join()
    assert sizes == [2, 20]  # each with a clock
    assert sorted(ids_of(connect())) == sorted(["first", *(f"m{i}" for i in range(20))])


def test_of_a_group_that_fails_every_thread_is_told(connect, record, monkeypatch):
    store = connect()
    told = []

    def failing(*_):
        raise StoreError("no room")

    def work(i):
        try:
            store.put("alice", [record(f"m{i}")])
        except StoreError as error:
            told.append(str(error))

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "upsert", failing)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(told) == 5
    assert all("no room" in message for message in told)
    assert store.count("alice") == 0
    store.put("alice", [record("later")])
    assert ids_of(connect()) == ["later"]


def test_one_damaged_row_does_not_take_the_others_with_it(connect, record, caplog):
    store = connect()
    store.put("alice", [record("good"), record("bad")])
    bad = store.get("alice", ["bad"])[0].version
    store._shared.base._collection.update(ids=[f"{bad}.0"], metadatas=[{"record": '{"id": "ba'}])
    assert ids_of(connect()) == ["good"]
    assert f"'{bad}.0' is damaged" in caplog.text


def test_a_row_put_in_anothers_place_is_not_read(connect, record):
    store = connect()
    store.put("alice", [record("hers", "n")])
    store.put("mallory", [record("his", "n")])
    [his] = store.get("mallory", ["n"])
    store._shared.base._collection.update(ids=[f"{his.version}.0"], metadatas=[{"of": "alice"}])
    assert store.payloads("mallory", [his.version]) == {his.version: []}
    assert store.payloads("alice", [his.version]) == {}


def test_a_field_of_a_newer_version_is_not_dropped_silently(connect, record):
    store = connect()
    store.put("alice", [record("a")])
    [found] = store.get("alice", ["a"])
    store._shared.base._collection.update(
        ids=[f"{found.version}.0"],
        metadatas=[{"record": '{"at":"2026-01-01T00:00:00+00:00","id":"a","hologram":1}'}],
    )
    with pytest.raises(NewerFormat, match="hologram"):
        connect().count("alice")


def test_each_scope_can_have_a_collection_of_its_own(connect, collection, record):
    store = connect(isolation="collection")
    store.put("alice", [record("a")])
    store.put("bob", [record("b")])
    names = store._shared.medium.names(collection)
    assert len(names) == 3
    assert not any("alice" in name for name in names)
    assert store.scopes() == ["alice", "bob"]
    assert store._shared.collection("alice").rows({"of": "bob"}) == []
    assert connect(isolation="collection").count("bob") == 1


def test_nothing_but_numbers_is_left_of_a_scope(connect, record):
    store = connect()
    store.put("alice@example.org", [record("secret words", metadata={"k": "private"})])
    assert "alice@example.org" in str([row.metadata for row in rows_of(store, {"kind": "chunk"})])
    store.clear("alice@example.org")
    left = [row for kind in ("chunk", "clock") for row in rows_of(store, {"kind": kind})]
    assert "alice" not in str([(row.id, row.metadata) for row in left])
    assert "secret" not in str(rows_of(store, {"kind": "forgotten"}))


def test_scopes_not_used_for_long_are_let_go_of_and_loaded_again(connect, record, monkeypatch):
    store = connect()
    store._shared.replica._budget = 3
    for scope in "abc":
        store.put(scope, [record(f"{scope}{i}") for i in range(2)])
        assert store.count(scope) == 2
    assert len(store._shared.replica._scopes) == 1
    assert [store.count(scope) for scope in "abc"] == [2, 2, 2]


def open_folder(folder, **options):
    return ServerStore.open_folder(
        folder, **({"dim": DIM, "fingerprint": "f1", "codec_name": "mini"} | options)
    )


def test_a_large_put_and_a_large_payload_arrive(connect, record):
    from nextmem_agents.store import NewRecord

    store = connect()
    large = [NewRecord(f"l{i}", [os.urandom(400_000)], np.ones((1, DIM))) for i in range(60)]
    store.put("alice", large)  # 32 MB in base64: two requests
    found = {record.id: record.version for record in connect().list("alice")}
    payloads = store.payloads("alice", list(found.values()))
    assert all(payloads[found[each.id]] == list(each.payloads) for each in large)
