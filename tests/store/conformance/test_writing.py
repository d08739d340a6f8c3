"""What is written is what is read, in the order in which it was written; in every layout."""

from __future__ import annotations

import threading
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import (
    InvalidArgument,
    MemoryNotFound,
    Overtaken,
)
from nextmem_agents.store import NewRecord
from tests.store.conformance.conftest import LISBON
from tests.store.conftest import DIM

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_what_is_written_is_what_is_read(store, record):
    metadata = {"text": "é\0😀", "count": -(2**63), "share": 0.1, "flag": True}
    before = datetime.now(timezone.utc)
    store.put(
        "alice",
        [
            record(
                "One. Two", "m1", session="s", agent="a", role="user", occurred_at=LISBON, metadata=metadata
            )
        ],
    )
    [found] = store.get("alice", ["m1"])
    assert (found.id, found.session, found.agent, found.role) == ("m1", "s", "a", "user")
    assert found.occurred_at == LISBON
    assert found.occurred_at.tzinfo is timezone.utc
    assert before <= found.created_at == found.updated_at <= datetime.now(timezone.utc)
    assert found.metadata == metadata
    assert [type(value) for value in found.metadata.values()] == [str, int, float, bool]
    assert found.n_chunks == 2
    assert store.payloads("alice", [found.version]) == {found.version: [b"One", b"Two"]}
    assert store.records("alice", [found.version]) == {found.version: found}


def test_any_bytes_under_any_id_come_back(store):
    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=4),
        id_=st.text(min_size=1, max_size=20),
        session=st.none() | st.text(min_size=1, max_size=5),
        value=st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False),
    )
    def check(payloads, id_, session, value):
        vectors = np.ones((len(payloads), DIM), dtype=np.float32)
        store.put("s", [NewRecord(id_, payloads, vectors, session=session, metadata={"v": value})])
        [found] = store.get("s", [id_])
        assert (found.session, found.metadata) == (session, {"v": value})
        assert type(found.metadata["v"]) is type(value)
        assert store.payloads("s", [found.version])[found.version] == payloads

    check()


def test_get_keeps_the_order_and_names_an_unknown_id(store, record):
    store.put("alice", [record("a"), record("b")])
    assert [found.id for found in store.get("alice", ["b", "a", "b"])] == ["b", "a", "b"]
    with pytest.raises(MemoryNotFound, match="'c' in the scope 'alice'"):
        store.get("alice", ["a", "c"])


def test_the_same_id_replaces_and_the_old_version_is_history(store, record, vector, texts):
    store.put("alice", [record("old text", "m", metadata={"v": 1}), record("other")])
    [first] = store.get("alice", ["m"])
    store.put("alice", [record("new text", "m", metadata={"v": 2})])
    [second] = store.get("alice", ["m"])

    assert second.version > first.version
    assert second.created_at == first.created_at < second.updated_at
    assert [found.version for found in store.history("alice", "m")] == [first.version, second.version]
    assert store.payloads("alice", [first.version]) == {first.version: [b"old text"]}

    assert texts(store, "alice") == ["other", "new text"]
    assert store.count("alice") == 2
    assert first.version not in [version for version, _ in store.nearest("alice", vector("old text"), 10)]
    assert store.postings("alice", ["old"]).terms["old"].document_frequency == 0
    assert list(store.list("alice", where={"v": 1})) == []


def test_one_put_writes_the_same_id_twice_in_order(store, record, texts):
    store.put("alice", [record("first", "m"), record("second", "m")])
    assert len(store.history("alice", "m")) == 2
    assert texts(store, "alice") == ["second"]


def test_history_of_an_unknown_memory(store):
    with pytest.raises(MemoryNotFound, match="'m' in the scope 'alice'"):
        store.history("alice", "m")


def test_a_put_is_all_or_nothing(store, record):
    store.put("alice", [record("kept")])
    for flaw in (
        {"payloads": []},
        {"payloads": ["text"]},
        {"payloads": b"bytes"},
        {"vectors": np.ones((2, DIM))},
        {"vectors": np.ones((1, DIM - 1))},
        {"vectors": np.full((1, DIM), np.nan)},
        {"vectors": [["a"] * DIM]},
        {"id": "\ud800"},
        {"id": 7},
        {"session": 7},
        {"occurred_at": 7},
        {"metadata": {"role": "user"}},
        {"terms": {"w": 0}},
        {"terms": ["w"]},
    ):
        with pytest.raises(InvalidArgument):
            store.put("alice", [record("good"), NewRecord(**(vars(record("bad")) | flaw))])
    assert [found.id for found in store.list("alice")] == ["kept"]


def test_put_gives_the_ids_and_an_exact_repeat_is_folded_if_asked(store, record):
    assert store.put("s", []) == []
    assert store.put("s", [record("a", digest="d", session="x"), record("b")]) == ["a", "b"]
    again = [
        record("a again", digest="d", session="x", fold=True),
        record("other session", digest="d", session="y", fold=True),
        record("not asked to", digest="d", session="x"),
        record("twice", digest="e", fold=True),
        record("twice again", digest="e", fold=True),
    ]
    assert store.put("s", again) == ["a", "other session", "not asked to", "twice", "twice"]
    assert [found.id for found in store.list("s")] == ["a", "b", "other session", "not asked to", "twice"]


def test_list_goes_by_write_order_in_pages(store, record):
    names = [f"m{i:03}" for i in range(450)]
    store.put("alice", [record(name) for name in names])
    assert [found.id for found in store.list("alice")] == names
    assert [found.id for found in store.list("alice", newest_first=True, limit=3)] == names[:-4:-1]


def test_list_is_the_selection_at_the_time_of_the_call(store, record):
    store.put("alice", [record(f"m{i:03}") for i in range(300)])
    listing = store.list("alice")
    first = next(listing)
    store.put("alice", [record("later")])
    store.put("alice", [record("m299 changed", "m299")])
    store.forget("alice", ids=["m298"])
    assert [first.id, *(found.id for found in listing)] == [f"m{i:03}" for i in range(300) if i != 298]


def test_pages_of_a_list_follow_one_another(store, record):
    store.put("s", [record(f"m{i}") for i in range(7)])
    page = [found.id for found in store.list("s", limit=3)]
    rest = [found.id for found in store.list("s", after=page[-1])]
    assert page + rest == [f"m{i}" for i in range(7)]
    assert [found.id for found in store.list("s", newest_first=True, after="m5", limit=2)] == ["m4", "m3"]
    with pytest.raises(MemoryNotFound):
        store.list("s", after="nothing")


def test_many_threads_write_and_read(open_store, record, vector):
    store = open_store(exact_limit=50)
    failures = []

    def work(name):
        try:
            for i in range(6):
                store.put("shared", [record(f"{name} {i}")])
                store.put(name, [record(f"{name} {i}")])
                assert len(store.nearest(name, vector(f"{name} {i}"), 50)) == i + 1
                assert len(store.nearest("shared", vector("x"), 1)) == 1
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.count("shared") == 24
    assert len(store.nearest("shared", vector("x"), 200)) == 24
    assert len({found.version for found in store.list("shared")}) == 24


def test_a_version_is_made_from_the_current_one_or_not_at_all(store, record, texts):
    store.put("s", [record("one", "m"), record("other")])
    [first] = [found.version for found in store.get("s", ["m"])]
    store.put("s", [record("two", "m", former=first)])
    with pytest.raises(Overtaken):
        store.put("s", [record("new"), record("three", "m", former=first)])
    store.forget("s", ids=["m"])
    with pytest.raises(MemoryNotFound):
        store.put("s", [record("three", "m", former=first)])
    assert texts(store, "s") == ["other"]
