"""The life of a memory in the store: versions, validity, expiry, repeats, paging."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from nextmem_agents.errors import InvalidArgument, MemoryNotFound
from nextmem_agents.store import clock

MAY = datetime(2024, 5, 1, tzinfo=timezone.utc)
JUNE, JULY = MAY + timedelta(days=31), MAY + timedelta(days=61)


@pytest.fixture
def at(monkeypatch):
    """Set the time that the store sees."""

    class Clock(datetime):
        time = MAY

        @classmethod
        def now(cls, tz=None):
            return cls.time

    def set_(time):
        Clock.time = time
        monkeypatch.setattr(clock, "datetime", Clock)
        monkeypatch.setattr(clock, "_latest", max(time, MAY) if time >= MAY else clock._latest)

    monkeypatch.setattr(clock, "_latest", MAY)
    set_(MAY)
    return set_


def ids(records):
    return [record.id for record in records]


def test_what_was_believed_in_may(store, record, vector, at):
    store.put("alice", [record("lives in Lisbon", "home", metadata={"v": 1}), record("likes tea")])
    at(JUNE)
    store.put("alice", [record("lives in Porto", "home", metadata={"v": 2})])
    for as_of, text, version in ((MAY, "lives in Lisbon", 1), (None, "lives in Porto", 2)):
        [home] = store.list("alice", where={"id": "home"}, as_of=as_of)
        assert home.metadata == {"v": version}
        assert store.payloads("alice", [home.version])[home.version] == [text.encode()]
        assert store.nearest("alice", vector(text), 1, as_of=as_of) == [(home.version, pytest.approx(1.0))]
        city = text.split()[-1].lower()
        assert store.postings("alice", [city], as_of=as_of).terms[city].versions.tolist() == [home.version]
    assert store.postings("alice", ["porto"], as_of=MAY).terms["porto"].document_frequency == 0
    assert store.postings("alice", ["lisbon"]).terms["lisbon"].document_frequency == 0
    assert list(store.list("alice", as_of=MAY - timedelta(days=1))) == []
    former, present = store.history("alice", "home")
    assert (former.valid_from, former.valid_to) == (MAY, JUNE)
    assert (present.valid_from, present.valid_to) == (JUNE, None)


def test_a_superseded_memory_holds_until_its_successor_begins(store, record, vector, at):
    store.put("alice", [record("works for A", "a", valid_from=MAY - timedelta(days=365))])
    at(JULY)
    store.put("alice", [record("works for B", "b", supersedes="a", valid_from=JUNE)])
    assert ids(store.list("alice")) == ["b"]
    assert store.count("alice") == 1
    assert ids(store.list("alice", as_of=MAY)) == ["a"]
    assert ids(store.list("alice", as_of=JUNE)) == ["b"]
    [old] = store.get("alice", ["a"])
    assert old.valid_to == JUNE
    assert [v for v, _ in store.nearest("alice", vector("works for A"), 5)] != [old.version]
    assert store.postings("alice", ["works"]).terms["works"].document_frequency == 1
    assert store.forget("alice", ids=["a"]) == 1
    with pytest.raises(MemoryNotFound, match="'zz'"):
        store.put("alice", [record("x", "x"), record("y", "y", supersedes="zz")])
    assert ids(store.list("alice")) == ["b"]


def test_an_expired_memory_is_returned_by_no_read(store, record, vector, at):
    store.put(
        "alice", [record("the code is 7", "code", session="s", expires_at=JUNE), record("stays", session="s")]
    )
    store.put("bob", [record("gone soon", expires_at=JUNE)])
    [code, stays] = store.list("alice")
    at(JUNE)
    for as_of in (None, MAY):
        assert ids(store.list("alice", as_of=as_of)) == ["stays"]
        assert store.nearest("alice", vector("the code is 7"), 5, as_of=as_of)[0][0] == stays.version
        assert store.postings("alice", ["code"], as_of=as_of).terms["code"].document_frequency == 0
        assert store.neighbours("alice", [stays.version], as_of=as_of) == {}
    assert store.records("alice", [code.version]) == store.payloads("alice", [code.version]) == {}
    assert store.accesses("alice", [code.version]) == {}
    assert ids(store.dump("alice")) == ["stays"]
    assert store.scopes() == ["alice"]
    assert store.count("alice") == 1
    for read in (
        lambda: store.get("alice", ["code"]),
        lambda: store.history("alice", "code"),
        lambda: store.forget("alice", ids=["code"]),
        lambda: list(store.list("alice", after="code")),
    ):
        with pytest.raises(MemoryNotFound):
            read()
    assert store.purge() == 2
    assert store.purge() == 0


def test_an_expired_memory_stays_gone_when_the_clock_is_set_back(open_store, record, at):
    with open_store() as store:
        store.put("alice", [record("brief", expires_at=JUNE), record("lasting")])
    at(JULY)
    with open_store() as store:
        assert ids(store.list("alice")) == ["lasting"]
    at(MAY)
    store = open_store()
    assert ids(store.list("alice")) == ["lasting"]
    store.put("alice", [record("written after the clock went back")])
    assert store.count("alice") == 2


def test_a_memory_expires_with_its_past_and_its_id_is_free_again(store, record, at):
    store.put("alice", [record("one", "m")])
    store.put("alice", [record("two", "m", expires_at=JUNE)])
    at(JUNE)
    assert list(store.list("alice", as_of=MAY)) == []
    store.put("alice", [record("three", "m")])
    [only] = store.history("alice", "m")
    assert only.created_at == JUNE


def test_repeats_fold_within_their_session_alone(store, record):
    first = record("yes", "1", session="s", digest="d")
    assert store.put("alice", [first]) == ["1"]
    again = replace(first, id="2", fold=True)
    assert store.put(
        "alice", [again, replace(again, id="3", session="t"), replace(again, id="4", session="t")]
    ) == [
        "1",
        "3",
        "3",
    ]
    assert store.put("alice", [replace(first, id="5")]) == ["5"]
    assert store.put("bob", [again]) == ["2"]
    assert ids(store.list("alice")) == ["1", "3", "5"]


def test_pages_follow_one_another_either_way(store, record):
    store.put("alice", [record(f"m{i}") for i in range(7)])
    for newest_first in (False, True):
        seen, after = [], None
        while page := ids(store.list("alice", newest_first=newest_first, limit=3, after=after)):
            seen += page
            after = page[-1]
        assert seen == ids(store.list("alice", newest_first=newest_first))
        assert len(seen) == 7
    with pytest.raises(MemoryNotFound):
        store.list("alice", after="unknown")


def test_a_dump_put_elsewhere_is_the_same_history(store, open_store, record, vector, at):
    store.put("alice", [record("a b. c", "m", metadata={"v": 1}, importance=0.5, written_by="x")])
    at(JUNE)
    store.put("alice", [record("d e", "m", derived_from="y"), record("f")])
    other = open_store(":memory:")
    other.put("alice", [*store.dump("alice")])
    assert [replace(r, version=0) for r in other.history("alice", "m")] == [
        replace(r, version=0) for r in store.history("alice", "m")
    ]
    [then] = other.list("alice", as_of=MAY)
    assert other.nearest("alice", vector("c"), 1, as_of=MAY)[0][0] == then.version
    assert other.postings("alice", ["b."], as_of=MAY).terms["b."].versions.tolist() == [then.version]


def test_recalls_are_counted_and_outlive_updates_and_closing(open_store, record, at):
    with open_store() as store:
        store.put("alice", [record("m")])
        [m] = store.list("alice")
        store.touch("alice", [m.version])
        store.touch("alice", [m.version, 999])
        assert store.accesses("alice", [m.version, 999]) == {
            m.version: store.accesses("alice", [m.version])[m.version]
        }
        at(JUNE)
        store.touch("alice", [m.version])
        store.touch("bob", [m.version])
    store = open_store()
    access = store.accesses("alice", [m.version])[m.version]
    assert (access.count, access.last) == (3, JUNE)
    store.put("alice", [record("m2", "m")])
    [now] = store.list("alice")
    assert store.accesses("alice", [now.version])[now.version].count == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"importance": 1.1},
        {"importance": True},
        {"valid_from": JUNE, "valid_to": MAY},
        {"expires_at": 5},
        {"supersedes": ""},
        {"fold": 1},
    ],
)
def test_malformed_fields_are_refused(store, record, fields):
    with pytest.raises(InvalidArgument):
        store.put("alice", [record("x", **fields)])
    assert store.count("alice") == 0
