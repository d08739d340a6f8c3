"""What is forgotten, superseded, expired or erased is gone from every read; in every layout."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from nextmem_agents.errors import (
    InvalidArgument,
    MemoryNotFound,
)
from tests.store.conftest import DIM

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

DAY = timedelta(days=1)


def test_forget_leaves_nothing_on_any_read_path(open_store, record, vector):
    store = open_store(exact_limit=1)
    store.put("alice", [record("secret one", "m", role="user"), record("kept"), record("kept too")])
    store.put("alice", [record("secret two", "m", role="user")])
    versions = [found.version for found in store.history("alice", "m")]
    store.flush()

    assert store.forget("alice", ids=["m", "m"]) == 1

    for call in (lambda: store.get("alice", ["m"]), lambda: store.history("alice", "m")):
        with pytest.raises(MemoryNotFound):
            call()
    assert store.count("alice") == 2
    assert store.payloads("alice", versions) == {}
    assert store.records("alice", versions) == {}
    assert [found.id for found in store.list("alice")] == ["kept", "kept too"]
    assert list(store.list("alice", where={"role": "user"})) == []
    assert store.postings("alice", ["secret"]).terms["secret"].document_frequency == 0
    for k in (1, 10):
        assert not {v for v, _ in store.nearest("alice", vector("secret two"), k)} & set(versions)


def test_forget_counts_memories_and_refuses_what_is_unclear(store, record):
    store.put("alice", [record("a", role="user"), record("b", role="user"), record("c")])
    with pytest.raises(MemoryNotFound, match="'x' in the scope 'alice'"):
        store.forget("alice", ids=["a", "x"])
    for selection in ({}, {"ids": ["a"], "where": {"role": "x"}}, {"where": {}}, {"ids": "a"}):
        with pytest.raises(InvalidArgument):
            store.forget("alice", **selection)
    assert store.count("alice") == 3
    assert store.forget("alice", where={"role": "user"}) == 2
    assert store.forget("alice", where={"role": "user"}) == 0
    assert store.forget("nobody", where={"role": "user"}) == 0
    assert store.forget("alice", ids=[]) == 0
    assert store.clear("alice") == 1
    assert store.clear("alice") == 0


def test_a_scope_goes_with_its_last_memory_and_may_come_back(store, record, texts):
    store.put("bob", [record("a")])
    store.put("alice", [record("a")])
    assert store.scopes() == ["alice", "bob"]
    store.forget("alice", ids=["a"])
    assert store.scopes() == ["bob"]
    store.put("alice", [record("back")])
    assert store.scopes() == ["alice", "bob"]
    assert texts(store, "alice") == ["back"]


def test_a_version_is_never_given_out_twice(open_durable, record):
    store = open_durable()
    store.put("alice", [record("a")])
    [first] = store.get("alice", ["a"])
    store.forget("alice", ids=["a"])
    store.close()
    store = open_durable()
    store.put("alice", [record("a")])
    assert store.get("alice", ["a"])[0].version > first.version


def test_what_was_believed_then_can_be_asked(store, record, vector):
    may, june = (datetime(2024, month, 1, tzinfo=timezone.utc) for month in (5, 6))
    store.put("s", [record("lives in Lisbon", "home", valid_from=may)])
    store.put("s", [record("lives in Porto", "home", valid_from=june)])
    store.put("s", [record("works at A", "job-a", valid_from=may)])
    store.put("s", [record("works at B", "job-b", valid_from=june, supersedes="job-a", written_by="hr")])
    with pytest.raises(MemoryNotFound, match="'job-z'"):
        store.put("s", [record("kept out"), record("works at C", "job-c", supersedes="job-z")])

    def believed(as_of):
        ids = {found.version for found in store.list("s", as_of=as_of)}
        assert {v for v, _ in store.nearest("s", np.ones(DIM), 10, as_of=as_of)} == ids
        payloads = store.payloads("s", list(ids))
        return sorted(payloads[version][0].decode() for version in ids)

    assert believed(None) == ["lives in Porto", "works at B"]
    assert believed(may + DAY) == ["lives in Lisbon", "works at A"]
    assert believed(june + DAY) == ["lives in Porto", "works at B"]
    assert believed(may - DAY) == []
    lisbon = store.postings("s", ["lisbon"], as_of=may + DAY).terms["lisbon"]
    assert lisbon.document_frequency == 1
    assert store.postings("s", ["lisbon"]).terms["lisbon"].document_frequency == 0
    assert store.nearest("s", vector("lives in Lisbon"), 1, as_of=may + DAY)[0][1] == pytest.approx(
        1.0, abs=1e-6
    )
    job = store.get("s", ["job-a"])[0]
    assert (job.valid_from, job.valid_to) == (may, june)
    assert (store.get("s", ["job-b"])[0].supersedes, store.get("s", ["job-b"])[0].written_by) == (
        "job-a",
        "hr",
    )
    assert store.count("s") == 2
    assert store.clear("s") == 3


def test_what_took_a_memorys_place_may_go_without_its_coming_back(open_durable, record):
    store = open_durable()
    store.put("s", [record("works at A", "job-a"), record("other")])
    store.put("s", [record("works at B", "job-b", supersedes="job-a")])
    store.forget("s", ids=["job-b"])
    for _ in range(2):
        assert [found.id for found in store.list("s")] == ["other"]
        assert store.get("s", ["job-a"])[0].valid_to is not None
        store.close()
        store = open_durable()


def test_an_expired_memory_is_on_no_read_path_and_purged_for_good(open_durable, record, vector):
    store = open_durable()
    past = datetime.now(timezone.utc) - DAY
    store.put("s", [record("gone", "g", expires_at=past), record("stays", expires_at=past + 30 * DAY)])
    store.put("t", [record("gone too", "g", expires_at=past)])
    for _ in range(2):
        assert [found.id for found in store.list("s")] == ["stays"]
        assert len(store.nearest("s", vector("gone"), 5)) == 1
        assert store.postings("s", ["gone"]).terms["gone"].document_frequency == 0
        with pytest.raises(MemoryNotFound):
            store.get("s", ["g"])
        with pytest.raises(MemoryNotFound):
            store.history("s", "g")
        assert (store.count("s"), store.count("t"), store.scopes()) == (1, 0, ["s"])
        store.close()
        store = open_durable()
    assert store.purge() in (0, 2)  # 0 where opening has done it
    assert store.purge() == 0
    assert store.sizes()["payloads"] < 5_000_000
    store.put("t", [record("anew", "g")])
    assert len(store.history("t", "g")) == 1


def test_erase_says_what_it_did_and_what_it_cannot_prove(open_durable, record):
    store = open_durable()
    store.put("s", [record("a. b", "m"), record("c")])
    store.put("s", [record("new", "m")])
    store.put("t", [record("kept")])
    receipt = store.erase("s")
    assert (receipt.scope, receipt.memories, receipt.versions, receipt.chunks) == ("s", 2, 3, 4)
    # Beyond the store's reach there are always backups and freed blocks: a receipt names them.
    assert receipt.not_proven
    assert (store.count("s"), store.count("t"), store.scopes()) == (0, 1, ["t"])
    store.put("s", [record("again")])
    assert store.count("s") == 1
    assert store.erase("nobody").memories == 0


def test_a_memory_is_given_longer_and_nothing_else_changes(store, record, texts):
    soon, later = (datetime.now(timezone.utc) + n * DAY for n in (1, 3))
    store.put("s", [record("one", "m", expires_at=soon), record("two", "n", expires_at=soon)])
    before = {found.id: found for found in store.list("s")}
    store.put("s", [record("two anew", "n", expires_at=soon)])

    assert store.expire("s", {found.version: later for found in before.values()}) == 1

    after = {found.id: found for found in store.list("s")}
    assert (after["m"].expires_at, after["n"].expires_at) == (later, soon)
    assert (after["m"].updated_at, after["m"].created_at) == (before["m"].updated_at, before["m"].created_at)
    assert sorted(texts(store, "s")) == ["one", "two anew"]
    store.forget("s", ids=["m"])
    assert store.expire("s", {before["m"].version: later}) == 0
    assert store.expire("nobody", {1: later}) == 0
    with pytest.raises(InvalidArgument):
        store.expire("s", {1: "tomorrow"})


def test_a_version_that_begins_before_the_last_one_ends_all_before_it(open_durable, record):
    store = open_durable()
    may = datetime(2024, 5, 1, tzinfo=timezone.utc)
    for days, text in ((0, "v1"), (10, "v2"), (5, "v3")):
        store.put("s", [record(text, "m", valid_from=may + days * DAY)])
        store.put("s", [record(f"old {text}", "o", valid_from=may + days * DAY)])
    store.put("s", [record("new", "n", supersedes="o", valid_from=may + 2 * DAY)])

    def believed(day):
        versions = [found.version for found in store.list("s", as_of=may + day * DAY)]
        payloads = store.payloads("s", versions)
        return sorted(payloads[version][0].decode() for version in versions)

    for _ in range(2):
        assert believed(1) == ["old v1", "v1"]
        assert believed(3) == ["new", "v1"]
        assert believed(6) == believed(12) == ["new", "v3"]
        store.close()
        store = open_durable()
