"""No method reads or writes outside its scope; a method added without a check here fails the first test."""

from __future__ import annotations

import inspect
from datetime import datetime, timezone

import pytest

from nextmem_agents.errors import InvalidArgument, MemoryNotFound
from nextmem_agents.store import EmbeddedStore, Store

STORE_WIDE = {"scopes", "sizes", "rebuild", "purge", "verify", "compact", "flush", "close"}

METHODS = {
    name: inspect.signature(method)
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if not name.startswith("_")
}

# Each asks for the ids, versions, vectors, terms and metadata of another scope, and must answer as if that
# one did not exist.
ASK = {
    "put": lambda store, scope, other: store.put(scope, []),
    "get": lambda store, scope, other: store.get(scope, [other.id]),
    "list": lambda store, scope, other: [
        *store.list(scope, where={"tag": "theirs"}),
        *store.list(scope, where={"tag": "theirs"}, as_of=other.updated_at),
    ],
    "history": lambda store, scope, other: store.history(scope, other.id),
    "records": lambda store, scope, other: store.records(scope, [other.version]),
    "payloads": lambda store, scope, other: store.payloads(scope, [other.version]),
    "nearest": lambda store, scope, other: [
        *store.nearest(scope, [1.0] * 8, 10, where={"tag": "theirs"}),
        *store.nearest(scope, [1.0] * 8, 10, where={"tag": "theirs"}, as_of=other.updated_at),
    ],
    "postings": lambda store, scope, other: (
        store.postings(scope, ["secret"]).terms["secret"].document_frequency
    ),
    "terms": lambda store, scope, other: store.terms(scope, other.version),
    "outline": lambda store, scope, other: other.version in store.outline(scope).versions,
    "neighbours": lambda store, scope, other: store.neighbours(scope, [other.version]),
    "touch": lambda store, scope, other: (
        store.touch(scope, [other.version]) or store.accesses("theirs", [other.version])
    ),
    "accesses": lambda store, scope, other: store.accesses(scope, [other.version]),
    "expire": lambda store, scope, other: store.expire(scope, {other.version: datetime.now(timezone.utc)}),
    "dump": lambda store, scope, other: [record for record in store.dump(scope) if record.id == other.id],
    "erase": lambda store, scope, other: store.erase(scope).memories > 1,
    "forget": lambda store, scope, other: store.forget(scope, where={"tag": "theirs"}),
    "clear": lambda store, scope, other: store.clear(scope) and store.count("theirs") != 5,
    "count": lambda store, scope, other: store.count(scope),
}


def test_every_method_takes_a_scope_first_and_is_checked_here():
    scoped = {name for name, signature in METHODS.items() if "scope" in list(signature.parameters)[:2]}
    assert scoped == METHODS.keys() - STORE_WIDE
    assert scoped == ASK.keys()
    for name in scoped:
        scope = METHODS[name].parameters["scope"]
        assert scope.default is inspect.Parameter.empty, f"{name} can be called without a scope"


def test_the_embedded_store_has_exactly_the_protocols_methods():
    for name, signature in METHODS.items():
        assert inspect.signature(getattr(EmbeddedStore, name)) == signature
    public = {name for name in dir(EmbeddedStore) if not name.startswith("_")}
    assert public == METHODS.keys() | {"open"}


@pytest.fixture(params=[20_000, 1], ids=["exact", "chroma"])
def filled(request, open_store, record):
    store = open_store(exact_limit=request.param)
    store.put("mine", [record("mine", metadata={"tag": "mine"})])
    store.put("theirs", [record(f"secret {i}", metadata={"tag": "theirs"}) for i in range(5)])
    store.flush()  # so that the index answers where it can
    return store


@pytest.mark.parametrize("method", sorted(ASK))
def test_nothing_of_another_scope_is_seen(filled, method):
    other = next(filled.list("theirs"))
    for scope in ("mine", "empty", "THEIRS", "theirs%"):
        if method in {"get", "history"}:
            with pytest.raises(MemoryNotFound):
                ASK[method](filled, scope, other)
        elif method == "count":
            assert filled.count(scope) == (1 if scope == "mine" else 0)
        else:
            assert not ASK[method](filled, scope, other)
    assert filled.count("theirs") == 5


def test_nearest_never_leaves_its_scope(filled, vector):
    found = [version for version, _ in filled.nearest("mine", vector("secret 1"), 10)]
    assert [record.id for record in filled.records("mine", found).values()] == ["mine"]
    found = [version for version, _ in filled.nearest("theirs", vector("mine"), 10)]
    assert len(filled.records("theirs", found)) == len(found) == 5


def test_the_same_id_in_two_scopes_is_two_memories(filled, record):
    filled.put("mine", [record("mine now", "secret 1")])
    assert len(filled.history("theirs", "secret 1")) == 1
    filled.forget("mine", ids=["secret 1"])
    assert filled.get("theirs", ["secret 1"])


MALFORMED = ["", " a", "a\n", "e\u0301", "\ud800", "x" * 257, {"$ne": ""}, ["a"], 1, b"a", None]


@pytest.mark.parametrize("method", sorted(ASK))
def test_every_method_refuses_a_malformed_scope(open_store, record, method):
    store = open_store(":memory:")
    store.put("theirs", [record("secret")])
    [other] = store.list("theirs")
    for scope in MALFORMED:
        with pytest.raises(InvalidArgument, match="scope"):
            ASK[method](store, scope, other)
