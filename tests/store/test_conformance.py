"""What every store keeps, whichever layout it has; a new layout is a new name in ``LAYOUTS``."""

from __future__ import annotations

import inspect
import math
import threading
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import (
    CodecMismatch,
    InvalidArgument,
    MemoryNotFound,
    ReadOnlyStore,
    StoreClosed,
)
from nextmem_agents.store import EmbeddedStore, NewRecord, Store, server_sharing
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import DIM
from tests.store.server.conftest import chroma_server

__all__ = ["chroma_server"]

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

LAYOUTS = ["embedded", "chroma-memory", "server"]
DURABLE = ["embedded", "chroma", "server", "server-collections"]
LISBON = datetime(2024, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture
def open_layout(request, tmp_path):
    """Open the store of a layout, of which a test has one; again with other options as often as it likes."""
    opened = []
    name = f"test-{uuid.uuid4().hex}"

    def open_(layout, **options):
        options = {"dim": DIM, "fingerprint": "f1", "codec_name": "mini"} | options
        if layout == "embedded":
            store = EmbeddedStore.open(tmp_path / "m", **options)
        elif layout == "embedded-copy":
            store = EmbeddedStore.open(tmp_path / "copy", **options)
        elif layout == "embedded-memory":
            store = EmbeddedStore.open(":memory:", **options)
        elif layout == "chroma":
            store = ServerStore.open_folder(tmp_path / "m", **options)
        elif layout == "chroma-memory":
            store = ServerStore.open_folder(":memory:", **options)
        else:
            server = request.getfixturevalue("chroma_server")
            isolation = "collection" if layout == "server-collections" else "shared"
            store = ServerStore.open(server.url, collection=name, isolation=isolation, **options)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()


@pytest.fixture(params=LAYOUTS)
def open_store(request, open_layout):
    return lambda **options: open_layout(request.param, **options)


@pytest.fixture(params=DURABLE)
def open_durable(request, open_layout):
    return lambda **options: open_layout(request.param, **options)


@pytest.fixture
def store(open_store):
    return open_store()


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


@pytest.mark.parametrize("exact_limit", [20_000, 10])
def test_nearest_equals_brute_force(open_store, exact_limit, monkeypatch):
    monkeypatch.setattr(server_sharing, "FEW", 10)
    rng = np.random.default_rng(0)
    n, k = 150, 7
    vectors = rng.normal(size=(n, 2, DIM)).astype(np.float32)
    store = open_store(exact_limit=exact_limit)
    for scope in ("alice", "bob"):
        memories = [
            NewRecord(str(i), [b"", b""], vectors[i], metadata={"i": i, "even": i % 2 == 0}) for i in range(n)
        ]
        store.put(scope, memories)
    store.flush()  # so that the index answers where it can
    filters = {
        None: range(n),
        "even": range(0, n, 2),
        "few": range(3),
        "many": range(5, n),
        "none": range(0),
    }
    where = {"even": {"even": True}, "few": {"i": {"$lt": 3}}, "many": {"i": {"$gte": 5}}, "none": {"i": -1}}
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    for name, kept in filters.items():
        for query in rng.normal(size=(3, DIM)):
            cosines = (units @ (query / np.linalg.norm(query))).max(axis=1)
            expected = sorted(kept, key=lambda i: -cosines[i])[:k]
            found = store.nearest("bob", query, k, where.get(name))
            records = store.records("bob", [version for version, _ in found])
            assert [int(records[version].id) for version, _ in found] == expected
            assert [score for _, score in found] == pytest.approx(list(cosines[expected]), abs=2e-4)


def test_a_zero_vector_is_at_0_from_all_and_a_huge_one_is_a_direction(store, record, vector):
    store.put("alice", [NewRecord("zero", [b"z"], np.zeros((1, DIM))), record("sun")])
    similarity = dict(store.nearest("alice", 1e30 * vector("sun"), 5))
    by_id = {found.id: similarity[found.version] for found in store.list("alice")}
    assert by_id == {"zero": pytest.approx(0.0, abs=1e-6), "sun": pytest.approx(1.0, abs=1e-6)}


def test_every_memory_is_found_when_k_is_larger_than_the_scope(open_store, record, vector):
    store = open_store(exact_limit=2)
    store.put("alice", [record("a. b. c"), record("d"), record("e")])
    assert len(store.nearest("alice", vector("a"), 50)) == 3


def test_postings_are_what_bm25_needs(store, record):
    store.put("alice", [record("the cat the dog", role="user"), record("a cat")])
    first, second = (found.version for found in store.list("alice"))
    found = store.postings("alice", ["cat", "the", "cow"])
    assert (found.n_memories, found.average_length) == (2, 3.0)
    assert found.terms["cat"].document_frequency == 2
    assert found.terms["cat"].versions.tolist() == [first, second]
    assert found.terms["the"].frequencies.tolist() == [2]
    assert found.terms["the"].lengths.tolist() == [4]
    assert found.terms["cow"].versions.tolist() == []
    filtered = store.postings("alice", ["cat"], where={"role": "user"})
    assert filtered.terms["cat"].versions.tolist() == [first]
    assert (filtered.terms["cat"].document_frequency, filtered.n_memories) == (2, 2)


def test_neighbours_are_the_memories_before_and_after_in_the_session(store, record):
    store.put("a", [record(f"r{i}", session="s", metadata={"even": i % 2 == 0}) for i in range(4)])
    store.put("a", [record("other", session="t"), record("none")])
    store.put("b", [record("foreign", session="s")])
    version = {r.id: r.version for r in store.list("a")}
    by_id = {v: k for k, v in version.items()}
    found = store.neighbours("a", list(version.values()))
    assert {by_id[v]: [by_id[n] for n in beside] for v, beside in found.items()} == {
        "r0": ["r1"],
        "r1": ["r0", "r2"],
        "r2": ["r1", "r3"],
        "r3": ["r2"],
    }
    assert store.neighbours("a", [version["r1"]], where={"even": True}) == {
        version["r1"]: [version["r0"], version["r2"]]
    }


FILTERS = [
    ({"year": 2020}, "ab"),
    ({"year": 2020.0}, "ab"),
    ({"year": {"$gt": 2019, "$lt": 2021}}, "ab"),
    ({"year": {"$ne": 2020}}, "cd"),
    ({"year": True}, "c"),
    ({"year": {"$in": [2020, True]}}, "abc"),
    ({"name": {"$gte": "b"}}, "bc"),
    ({"role": "user", "name": "a"}, "a"),
    ({"role": {"$ne": "user"}}, "bd"),
    ({"occurred_at": {"$lt": "2024-06-01"}}, "a"),
    ({"created_at": {"$gt": "2000-01-01"}, "id": {"$in": ["a", "d"]}}, "ad"),
    ({}, "abcd"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_filter_selects_the_same_everywhere(open_layout, record, layout):
    store = open_layout(layout)
    memories = [
        record("a word", "a", role="user", occurred_at=LISBON, metadata={"year": 2020, "name": "a"}),
        record("b word", "b", role="assistant", metadata={"year": 2020.0, "name": "b"}),
        record("c word", "c", role="user", metadata={"year": True, "name": "c"}),
        record("d word", "d"),
    ]
    store.put("s", memories)
    store.put("other", memories)
    for where, expected in FILTERS:
        versions = {found.version: found.id for found in store.list("s", where)}
        assert "".join(versions.values()) == expected
        assert {v for v, _ in store.nearest("s", np.ones(DIM), 10, where)} == versions.keys()
        assert set(store.postings("s", ["word"], where).terms["word"].versions.tolist()) == versions.keys()
    assert store.forget("s", where={"year": 2020}) == 2
    assert [found.id for found in store.list("s")] == ["c", "d"]
    assert store.count("other") == 4
    for malformed in (
        {"$or": []},
        {"a": {"$regex": "x"}},
        {"a": None},
        {"a": {"$gt": True}},
        {"a": math.nan},
    ):
        for call in (store.list, lambda s, w: store.forget(s, where=w)):
            with pytest.raises(InvalidArgument):
                call("s", malformed)


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


def test_everything_is_there_after_reopening(open_durable, record, vector, texts):
    store = open_durable()
    store.put("alice", [record("one", metadata={"n": 1}), record("two. three")])
    store.put("alice", [record("one again", "one")])
    before, near = list(store.list("alice")), store.nearest("alice", vector("three"), 2)
    history = store.history("alice", "one")
    store.close()
    store = open_durable()
    assert list(store.list("alice")) == before
    assert store.history("alice", "one") == history
    reopened = store.nearest("alice", vector("three"), 2)
    assert [version for version, _ in reopened] == [version for version, _ in near]
    assert [score for _, score in reopened] == pytest.approx([score for _, score in near], abs=1e-6)
    assert texts(store, "alice") == ["two. three", "one again"]


def test_a_closed_store_says_so(store, record):
    store.put("alice", [record("a")])
    listing = store.list("alice")
    store.close()
    store.close()
    for call in (lambda: store.count("alice"), store.scopes, store.flush, lambda: next(listing)):
        with pytest.raises(StoreClosed):
            call()


@pytest.mark.parametrize(
    "other", [{"fingerprint": "f2", "codec_name": "qwen"}, {"dim": DIM + 1, "codec_name": "qwen"}]
)
def test_another_codec_is_refused_by_name(open_durable, other):
    store = open_durable()
    for _ in range(2):  # while it is open, and when it is opened again
        with pytest.raises(CodecMismatch, match=r"'mini'.*'qwen'.*open it with the codec that wrote it"):
            open_durable(**other)
        store.close()
    assert open_durable().count("alice") == 0


def test_read_only_reads_and_refuses_to_write(open_durable, record, vector):
    store = open_durable()
    store.put("alice", [record("a"), record("b")])
    reader = open_durable(read_only=True)
    store.put("alice", [record("c")])
    assert len(reader.nearest("alice", vector("a"), 5)) == 3
    for write in (
        lambda: reader.put("alice", [record("d")]),
        lambda: reader.forget("alice", ids=["a"]),
        lambda: reader.clear("alice"),
        lambda: reader.rebuild(),
    ):
        with pytest.raises(ReadOnlyStore):
            write()
    assert store.count("alice") == 3


def test_sizes_tell_the_parts_apart(store, record):
    empty = store.sizes()
    store.put("alice", [record(f"some words {i}") for i in range(300)])
    sizes = store.sizes()
    assert sizes.keys() == {"payloads", "vectors", "lexical", "records", "chroma"}
    assert sizes["records"] > empty["records"]
    assert sizes["payloads"] >= sum(len(f"some words {i}") for i in range(300))
    assert sizes["vectors"] >= 300 * DIM * 4
    assert sizes["payloads"] + sizes["vectors"] + sizes["lexical"] < sizes["records"]


def test_rebuild_leaves_every_memory_where_it_was(open_store, record, vector, texts):
    store = open_store(exact_limit=1)
    store.put("alice", [record(f"m{i}") for i in range(30)])
    steps = []
    assert store.rebuild(lambda done, total: steps.append((done, total))) == 30
    assert steps[-1] == (30, 30)
    assert texts(store, "alice") == [f"m{i}" for i in range(30)]
    [(version, score)] = store.nearest("alice", vector("m7"), 1)
    assert store.records("alice", [version])[version].id == "m7"
    assert score == pytest.approx(1.0, abs=1e-6)


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


DAY = timedelta(days=1)


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


def test_pages_of_a_list_follow_one_another(store, record):
    store.put("s", [record(f"m{i}") for i in range(7)])
    page = [found.id for found in store.list("s", limit=3)]
    rest = [found.id for found in store.list("s", after=page[-1])]
    assert page + rest == [f"m{i}" for i in range(7)]
    assert [found.id for found in store.list("s", newest_first=True, after="m5", limit=2)] == ["m4", "m3"]
    with pytest.raises(MemoryNotFound):
        store.list("s", after="nothing")


def test_recalls_are_counted(store, record):
    store.put("s", [record("a"), record("b")])
    a, b = (found.version for found in store.list("s"))
    store.touch("s", [a])
    store.touch("s", [a])
    found = store.accesses("s", [a, b])
    assert found.keys() == {a}
    assert found[a].count == 2
    assert store.accesses("t", [a]) == {}


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


def test_a_dump_put_elsewhere_is_the_same_store(open_durable, open_layout, record, vector, texts):
    store = open_durable()
    store.put("s", [record("one. two", "m", session="x", role="user", metadata={"k": 1}), record("other")])
    store.put("s", [record("three", "m", importance=0.5, derived_from="chat 7")])
    dumped = list(store.dump("s"))
    assert [(each.id, len(each.payloads)) for each in dumped] == [("m", 2), ("other", 1), ("m", 1)]
    copy = open_layout("embedded-copy")
    copy.put("s", dumped)
    ignored = {"version": 0}
    for id_ in ("m", "other"):
        mine, theirs = store.history("s", id_), copy.history("s", id_)
        assert [replace(r, **ignored) for r in mine] == [replace(r, **ignored) for r in theirs]
    assert texts(copy, "s") == texts(store, "s")
    assert copy.nearest("s", vector("three"), 1)[0][1] == pytest.approx(1.0, abs=1e-6)
    assert copy.postings("s", ["three"]).terms["three"].document_frequency == 1


def test_verify_walks_every_version_and_reports_what_is_damaged(open_durable, record):
    store = open_durable()
    store.put("s", [record("a. b", "m"), record("bad")])
    store.put("s", [record("new", "m")])
    store.put("t", [record("c")])
    report = store.verify(lambda scope, record, payloads: None)
    assert (report.n_memories, report.n_versions, report.n_chunks) == (3, 4, 5)
    assert report.sound
    report = store.verify(lambda scope, record, payloads: "it is bad" if payloads == [b"bad"] else None)
    [damage] = report.damaged
    assert (damage.scope, damage.id, damage.reason) == ("s", "bad", "it is bad")
    assert not report.sound
    store.compact()
    assert (store.count("s"), store.count("t")) == (2, 1)


METHODS = {
    name: inspect.signature(method)
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if not name.startswith("_")
}


@pytest.mark.parametrize("layout", [EmbeddedStore, ServerStore])
def test_a_layout_has_exactly_the_protocols_methods(layout):
    for name, signature in METHODS.items():
        assert inspect.signature(getattr(layout, name)) == signature
    public = {name for name in vars(layout) if not name.startswith("_")}
    assert public - METHODS.keys() <= {"open", "open_folder"}


# Each asks for the ids, versions, vectors, terms and metadata of another scope, and must answer as if that one
# did not exist.
ASK = {
    "list": lambda store, scope, other: list(store.list(scope, where={"tag": "theirs"})),
    "records": lambda store, scope, other: store.records(scope, [other.version]),
    "payloads": lambda store, scope, other: store.payloads(scope, [other.version]),
    "nearest": lambda store, scope, other: store.nearest(scope, [1.0] * DIM, 10, where={"tag": "theirs"}),
    "postings": lambda store, scope, other: (
        store.postings(scope, ["secret"]).terms["secret"].document_frequency
    ),
    "neighbours": lambda store, scope, other: store.neighbours(scope, [other.version]),
    "dump": lambda store, scope, other: [
        each for each in store.dump(scope) if each.metadata["tag"] == "theirs"
    ],
    "forget": lambda store, scope, other: store.forget(scope, where={"tag": "theirs"}),
}


@pytest.mark.parametrize("exact_limit", [20_000, 1])
def test_nothing_of_another_scope_is_seen(open_durable, record, vector, exact_limit):
    store = open_durable(exact_limit=exact_limit)
    store.put("mine", [record("mine", metadata={"tag": "mine"})])
    store.put("theirs", [record(f"secret {i}", session="s", metadata={"tag": "theirs"}) for i in range(5)])
    other = next(store.list("theirs"))
    for name, ask in ASK.items():
        if name != "forget":
            assert ask(store, "theirs", other), f"the positive control of {name}"
        for scope in ("mine", "empty", "THEIRS", "theirs%"):
            assert not ask(store, scope, other), name
    for read in (store.get, lambda scope, ids: store.history(scope, ids[0])):
        with pytest.raises(MemoryNotFound):
            read("mine", [other.id])
    assert (store.count("mine"), store.count("empty")) == (1, 0)
    found = [version for version, _ in store.nearest("mine", vector("secret 1"), 10)]
    assert [record.id for record in store.records("mine", found).values()] == ["mine"]
    store.put("mine", [record("mine now", "secret 1")])
    assert len(store.history("theirs", "secret 1")) == 1
    assert store.clear("mine") == 2
    assert store.count("theirs") == 5


@pytest.mark.parametrize(
    "scope", ["", " a", "a\n", "e\u0301", "\ud800", "x" * 257, {"$ne": ""}, ["a"], 1, None]
)
def test_a_malformed_scope_is_refused_by_every_method(open_layout, record, scope):
    for layout in ("embedded-memory", "chroma-memory"):
        store = open_layout(layout)
        arguments = {"ids": ["a"], "id": "a", "records": [], "versions": [1], "terms": ["a"], "k": 1}
        arguments |= {"vector": [1.0] * DIM}
        for name, signature in METHODS.items():
            parameters = list(signature.parameters.values())[1:]
            if not parameters or parameters[0].name != "scope":
                continue
            needed = [
                arguments[p.name] for p in parameters[1:] if p.default is p.empty and p.name in arguments
            ]
            with pytest.raises(InvalidArgument, match="scope"):
                getattr(store, name)(scope, *needed)
