from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from nextmem_agents.errors import (
    InvalidArgument,
    StoreError,
)

LISBON = datetime(2024, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=1)))


def test_a_naive_time_is_taken_as_utc(store, record):
    store.put("alice", [record("a", occurred_at=LISBON.replace(tzinfo=None))])
    assert store.get("alice", ["a"])[0].occurred_at == LISBON.replace(tzinfo=timezone.utc)


def test_a_put_that_fails_in_the_database_leaves_nothing(store, record, monkeypatch):
    from nextmem_agents.store import tables

    insert = tables.insert

    def failing(sql, scope, new, now):
        version = insert(sql, scope, new, now)
        if new.id == "b":
            sql.execute("SELECT * FROM no_such_table")
        return version

    monkeypatch.setattr(tables, "insert", failing)
    with pytest.raises(StoreError, match="nothing of it was kept"):
        store.put("alice", [record("a"), record("b")])
    assert store.count("alice") == 0
    assert store.scopes() == []


@pytest.mark.parametrize("query", [[1.0] * 7, [float("nan")] * 8, ["a"] * 8, None])
def test_a_malformed_query_is_refused(open_store, query):
    store = open_store(":memory:")
    with pytest.raises(InvalidArgument, match="query vector"):
        store.nearest("alice", query, 1)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_k_is_a_positive_integer(open_store, k):
    store = open_store(":memory:")
    with pytest.raises(InvalidArgument, match="k must be"):
        store.nearest("alice", [1.0] * 8, k)


def test_two_handles_on_one_folder_are_one_store(open_store, folder, record):
    one = open_store()
    two = open_store(folder / ".." / folder.name)
    one.put("alice", [record("a")])
    assert two.count("alice") == 1
    one.close()
    one.close()
    two.put("alice", [record("b")])
    assert two.count("alice") == 2
    two.close()
    assert open_store().count("alice") == 2


def test_two_stores_in_memory_are_two(open_store, record, vector):
    one, two = (open_store(":memory:", exact_limit=1) for _ in range(2))
    one.put("alice", [record("a"), record("b")])
    two.put("alice", [record("c"), record("d"), record("e")])
    assert len(one.nearest("alice", vector("c"), 1)) == 1
    assert one.rebuild() == 2
    assert two.rebuild() == 3


def test_a_replaced_memory_is_no_neighbour(store, record):
    store.put("a", [record("x", session="s"), record("y", session="s")])
    store.put("a", [record("x", session="u")])
    (y,) = store.get("a", ["y"])
    assert store.neighbours("a", [y.version]) == {}
