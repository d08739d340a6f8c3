"""Searches find what definition says; in every layout."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nextmem_agents.errors import (
    InvalidArgument,
)
from nextmem_agents.store import NewRecord, server_sharing
from tests.store.conformance.conftest import LAYOUTS, LISBON
from tests.store.conftest import DIM

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


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


def test_searches_between_writes_see_each_of_them(open_store, record, vector):
    store = open_store(exact_limit=6)
    texts: dict[str, str] = {}

    def check():
        store.flush()
        for word in sorted({word for text in texts.values() for word in text.split()}):
            holding = [id_ for id_, text in texts.items() if word in text.split()]
            listed = store.postings("alice", [word]).terms[word].versions
            assert sorted(r.id for r in store.records("alice", listed.tolist()).values()) == sorted(holding)
        outline = store.outline("alice")
        assert len(outline) == len(texts)
        records = store.records("alice", outline.versions.tolist())
        for version, place in zip(outline.versions.tolist(), outline.sessions.tolist(), strict=True):
            assert records[version].session == (outline.session_names[place] if place >= 0 else None)
        for id_, text in texts.items():
            found = dict(store.nearest("alice", vector(text), len(texts)))
            assert len(found) == len(texts)
            assert found[store.get("alice", [id_])[0].version] == pytest.approx(1.0, abs=2e-3)

    for number, session in enumerate(["s", None, "t", "s", "u", "t", None, "s"]):
        texts[f"m{number}"] = f"word{number} common"
        store.put("alice", [record(texts[f"m{number}"], id_=f"m{number}", session=session)])
        check()
        if number == 3:
            texts["m1"] = "changed common"
            store.put("alice", [record(texts["m1"], id_="m1", session="s")])
            check()
        if number == 5:
            store.forget("alice", ["m0"])
            del texts["m0"]
            check()


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
    assert store.outline("alice").lengths.tolist() == [4, 2]
    assert found.terms["cow"].versions.tolist() == []
    filtered = store.postings("alice", ["cat"], where={"role": "user"})
    assert filtered.terms["cat"].versions.tolist() == [first]
    assert (filtered.terms["cat"].document_frequency, filtered.n_memories) == (2, 2)


def test_terms_are_what_a_version_was_put_with(store, record):
    [id_, _] = store.put("alice", [record("the cat the dog"), record("a cat")])
    store.put("bob", [record("a secret cow")])
    [foreign] = store.list("bob")
    [first] = store.get("alice", [id_])
    assert store.terms("alice", first.version) == {"the": (2, 1), "cat": (1, 2), "dog": (1, 1)}
    store.put("alice", [record("a cow", id_)])
    [second] = store.get("alice", [id_])
    assert store.terms("alice", second.version) == {"a": (1, 2), "cow": (1, 1)}
    assert store.terms("alice", first.version) == {"the": (2, 0), "cat": (1, 1), "dog": (1, 0)}
    assert store.terms("alice", foreign.version) == {}
    assert store.terms("nobody", first.version) == {}
    store.forget("alice", [id_])
    assert store.terms("alice", first.version) == store.terms("alice", second.version) == {}


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


def test_recalls_are_counted(store, record):
    store.put("s", [record("a"), record("b")])
    a, b = (found.version for found in store.list("s"))
    store.touch("s", [a])
    store.touch("s", [a])
    found = store.accesses("s", [a, b])
    assert found.keys() == {a}
    assert found[a].count == 2
    assert store.accesses("t", [a]) == {}
