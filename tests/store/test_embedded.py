from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import (
    CodecMismatch,
    InvalidArgument,
    MemoryNotFound,
    ReadOnlyStore,
    StoreClosed,
    StoreError,
)
from nextmem_agents.store import EmbeddedStore, NewRecord

LISBON = datetime(2024, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=1)))


def test_what_is_written_is_what_is_read(store, record):
    metadata = {"text": "é\0", "count": -(2**63), "share": 0.1, "flag": True}
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
    assert {key: type(value) for key, value in found.metadata.items()} == {
        key: type(value) for key, value in metadata.items()
    }
    assert found.n_chunks == 2
    assert store.payloads("alice", [found.version]) == {found.version: [b"One", b"Two"]}
    assert store.records("alice", [found.version]) == {found.version: found}


@settings(max_examples=40, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=4), id_=st.text(min_size=1, max_size=20)
)
def test_any_bytes_under_any_id_come_back(payloads, id_):
    with EmbeddedStore.open(":memory:", dim=2, fingerprint="f", codec_name="c") as store:
        store.put("s", [NewRecord(id_, payloads, np.ones((len(payloads), 2), dtype=np.float32))])
        [found] = store.get("s", [id_])
        assert store.payloads("s", [found.version])[found.version] == payloads


def test_a_naive_time_is_taken_as_utc(store, record):
    store.put("alice", [record("a", occurred_at=LISBON.replace(tzinfo=None))])
    assert store.get("alice", ["a"])[0].occurred_at == LISBON.replace(tzinfo=timezone.utc)


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
    assert store.history("alice", "m") == [replace(first, valid_to=second.valid_from), second]
    assert store.payloads("alice", [first.version]) == {first.version: [b"old text"]}

    assert texts(store, "alice") == ["other", "new text"]
    assert store.count("alice") == 2
    assert first.version not in [version for version, _ in store.nearest("alice", vector("old text"), 10)]
    assert store.postings("alice", ["old"]).terms["old"].document_frequency == 0
    assert list(store.list("alice", where={"v": 1})) == []


def test_one_put_writes_the_same_id_twice_in_order(store, record):
    store.put("alice", [record("first", "m"), record("second", "m")])
    assert len(store.history("alice", "m")) == 2
    assert store.count("alice") == 1


def test_history_of_an_unknown_memory(store):
    with pytest.raises(MemoryNotFound, match="'m' in the scope 'alice'"):
        store.history("alice", "m")


@pytest.mark.parametrize(
    "flaw",
    [
        {"payloads": []},
        {"payloads": ["text"]},
        {"payloads": b"bytes"},
        {"vectors": np.ones((2, 8), dtype=np.float32)},
        {"vectors": np.ones((1, 7), dtype=np.float32)},
        {"vectors": np.full((1, 8), np.nan, dtype=np.float32)},
        {"vectors": [["a"] * 8]},
        {"terms": {"word": 0}},
        {"terms": ["word"]},
        {"id": ""},
        {"id": 7},
        {"id": "\ud800"},
        {"session": 7},
        {"occurred_at": 7},
        {"metadata": {"role": "user"}},
    ],
)
def test_a_put_is_all_or_nothing(open_store, record, flaw):
    store = open_store(":memory:")
    store.put("alice", [record("kept")])
    with pytest.raises(InvalidArgument):
        store.put("alice", [record("good"), NewRecord(**(vars(record("bad")) | flaw))])
    assert [found.id for found in store.list("alice")] == ["kept"]


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


def test_nearest_is_the_best_chunk_of_each_memory(store, record, vector):
    store.put("alice", [record("rain. sun"), record("snow")])
    (best, similarity), (_, other) = store.nearest("alice", 1e30 * vector("sun"), 5)
    assert store.records("alice", [best])[best].id == "rain. sun"
    assert similarity == pytest.approx(1.0, abs=1e-6)
    assert other < similarity <= 1.0


@pytest.mark.parametrize("exact_limit", [20_000, 10])
@pytest.mark.parametrize("where", [None, {"even": True}, {"i": {"$lt": 3}}, {"i": {"$gte": 5}}, {"i": -1}])
def test_nearest_equals_brute_force(open_store, exact_limit, where):
    rng = np.random.default_rng(0)
    n, dim, k = 300, 16, 7
    vectors = rng.normal(size=(n, 2, dim)).astype(np.float32)
    store = open_store(":memory:", dim=dim, exact_limit=exact_limit)
    for scope in ("alice", "bob"):
        store.put(
            scope,
            [
                NewRecord(str(i), [b"", b""], vectors[i], metadata={"i": i, "even": i % 2 == 0})
                for i in range(n)
            ],
        )
    tests = {"even": lambda i: i % 2 == 0, "i": lambda i: i < 3 if where["i"] == {"$lt": 3} else i >= 5}
    kept = [i for i in range(n) if where is None or (where != {"i": -1} and tests[next(iter(where))](i))]
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    for query in rng.normal(size=(5, dim)):
        cosines = (units @ (query / np.linalg.norm(query))).max(axis=1)
        expected = sorted(kept, key=lambda i: -cosines[i])[:k]
        found = store.nearest("bob", query, k, where)
        records = store.records("bob", [version for version, _ in found])
        assert [int(records[version].id) for version, _ in found] == expected
        assert [score for _, score in found] == pytest.approx(list(cosines[expected]), abs=1e-5)


def test_every_memory_is_found_when_k_is_larger_than_the_scope(open_store, record, vector):
    store = open_store(exact_limit=2)
    store.put("alice", [record("a. b. c"), record("d"), record("e")])
    assert len(store.nearest("alice", vector("a"), 50)) == 3


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


def test_postings_are_what_bm25_needs(store, record):
    store.put("alice", [record("the cat the dog", role="user"), record("a cat")])
    first, second = (found.version for found in store.list("alice"))
    found = store.postings("alice", ["cat", "the", "cow"])
    assert (found.n_memories, found.average_length) == (2, 3.0)
    assert found.terms["cat"].document_frequency == 2
    assert found.terms["cat"].versions.tolist() == [first, second]
    assert found.terms["the"].frequencies.tolist() == [2]
    assert found.terms["the"].lengths.tolist() == [4]
    assert found.terms["cow"].document_frequency == 0
    assert found.terms["cow"].versions.tolist() == []

    filtered = store.postings("alice", ["cat"], where={"role": "user"})
    assert filtered.terms["cat"].versions.tolist() == [first]
    assert filtered.terms["cat"].document_frequency == 2
    assert filtered.n_memories == 2


def test_forget_leaves_nothing_on_any_read_path(open_store, record, vector):
    store = open_store(exact_limit=1)
    store.put("alice", [record("secret one", "m", role="user"), record("kept"), record("kept too")])
    store.put("alice", [record("secret two", "m", role="user")])
    versions = [found.version for found in store.history("alice", "m")]
    store.flush()

    assert store.forget("alice", ids=["m", "m"]) == 1

    with pytest.raises(MemoryNotFound):
        store.get("alice", ["m"])
    with pytest.raises(MemoryNotFound):
        store.history("alice", "m")
    assert store.count("alice") == 2
    assert store.payloads("alice", versions) == {}
    assert store.records("alice", versions) == {}
    assert [found.id for found in store.list("alice")] == ["kept", "kept too"]
    assert list(store.list("alice", where={"role": "user"})) == []
    assert store.postings("alice", ["secret"]).terms["secret"].document_frequency == 0
    for k in (1, 10):
        assert not {v for v, _ in store.nearest("alice", vector("secret two"), k)} & set(versions)


def test_forget_by_filter_counts_memories(store, record):
    store.put("alice", [record("a", role="user"), record("b", role="user"), record("c", role="assistant")])
    assert store.forget("alice", where={"role": "user"}) == 2
    assert store.forget("alice", where={"role": "user"}) == 0
    assert store.forget("nobody", where={"role": "user"}) == 0


def test_forget_with_one_unknown_id_deletes_nothing(store, record):
    store.put("alice", [record("a")])
    with pytest.raises(MemoryNotFound, match="'b' in the scope 'alice'"):
        store.forget("alice", ids=["a", "b"])
    assert store.count("alice") == 1


@pytest.mark.parametrize(
    "selection", [{}, {"ids": ["a"], "where": {"role": "x"}}, {"where": {}}, {"ids": "a"}]
)
def test_forget_takes_one_unmistakable_selection(open_store, record, selection):
    store = open_store(":memory:")
    store.put("alice", [record("a")])
    with pytest.raises(InvalidArgument):
        store.forget("alice", **selection)
    assert store.count("alice") == 1


def test_a_scope_goes_with_its_last_memory(store, record):
    store.put("bob", [record("a")])
    store.put("alice", [record("a")])
    assert store.scopes() == ["alice", "bob"]
    store.forget("alice", ids=["a"])
    assert store.scopes() == ["bob"]


def test_a_version_is_never_given_out_twice(open_store, record):
    store = open_store()
    store.put("alice", [record("a")])
    [first] = store.get("alice", ["a"])
    store.forget("alice", ids=["a"])
    store.close()
    store = open_store()
    store.put("alice", [record("a")])
    assert store.get("alice", ["a"])[0].version > first.version


def test_everything_is_there_after_reopening(open_store, record, vector, texts):
    store = open_store()
    store.put("alice", [record("one", metadata={"n": 1}), record("two. three")])
    before, near = list(store.list("alice")), store.nearest("alice", vector("three"), 2)
    store.close()
    store = open_store()
    assert list(store.list("alice")) == before
    assert store.nearest("alice", vector("three"), 2) == near
    assert texts(store, "alice") == ["one", "two. three"]


def test_a_closed_store_says_so(store, record):
    store.put("alice", [record("a")])
    listing = store.list("alice")
    store.close()
    store.close()
    for call in (lambda: store.count("alice"), store.scopes, store.flush, lambda: next(listing)):
        with pytest.raises(StoreClosed):
            call()


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


@pytest.mark.parametrize(
    "other", [{"fingerprint": "f2", "codec_name": "qwen"}, {"dim": 9, "codec_name": "qwen"}]
)
def test_another_codec_is_refused_by_name(open_store, record, other):
    store = open_store()
    for _ in range(2):  # while it is open, and when it is opened again
        with pytest.raises(CodecMismatch, match=r"'mini'.*'qwen'.*open it with the codec that wrote it"):
            open_store(**other)
        store.close()
    assert open_store().count("alice") == 0


def test_read_only_reads_and_refuses_to_write(open_store, folder, record, vector):
    with pytest.raises(StoreError, match="no store to read"):
        open_store(read_only=True)
    assert not folder.exists()
    store = open_store()
    store.put("alice", [record("a"), record("b")])
    reader = open_store(read_only=True, exact_limit=1)
    assert len(reader.nearest("alice", vector("a"), 1)) == 1
    store.put("alice", [record("c")])
    assert len(reader.nearest("alice", vector("a"), 5)) == 3
    for write in (
        lambda: reader.put("alice", [record("d")]),
        lambda: reader.forget("alice", ids=["a"]),
        lambda: reader.rebuild(),
    ):
        with pytest.raises(ReadOnlyStore):
            write()
    reader.flush()
    with pytest.raises(InvalidArgument, match="needs a folder"):
        open_store(":memory:", read_only=True)


def test_sizes_tell_the_parts_apart(store, record):
    empty = store.sizes()
    store.put("alice", [record(f"some words {i}") for i in range(300)])
    sizes = store.sizes()
    assert sizes.keys() == {"payloads", "vectors", "lexical", "records", "chroma"}
    assert sizes["records"] > empty["records"]
    assert sizes["payloads"] + sizes["vectors"] + sizes["lexical"] < sizes["records"]
    assert sizes["vectors"] >= 300 * 8 * 4


def test_many_threads_write_and_read(open_store, record, vector):
    store = open_store(exact_limit=50)
    failures = []

    def work(name):
        try:
            for i in range(25):
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
    assert store.count("shared") == 100
    assert len(store.nearest("shared", vector("x"), 200)) == 100


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
    assert store.neighbours("a", [version["r1"]], where={"even": False}) == {}
    assert store.neighbours("a", [999_999]) == {}


def test_a_replaced_memory_is_no_neighbour(store, record):
    store.put("a", [record("x", session="s"), record("y", session="s")])
    store.put("a", [record("x", session="u")])
    (y,) = store.get("a", ["y"])
    assert store.neighbours("a", [y.version]) == {}
