"""Every layout has the protocol's methods, and none shows anything of another scope."""

from __future__ import annotations

import inspect
from datetime import datetime, timezone

import pytest

from nextmem_agents.errors import (
    InvalidArgument,
    MemoryNotFound,
)
from nextmem_agents.store import EmbeddedStore, Store
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import DIM

FAR = datetime(2100, 1, 1, tzinfo=timezone.utc)

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

METHODS = {
    name: inspect.signature(method)
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if not name.startswith("_")
}


@pytest.mark.parametrize("layout", [EmbeddedStore, ServerStore])
def test_a_layout_has_exactly_the_protocols_methods(layout):
    for name, signature in METHODS.items():
        assert inspect.signature(getattr(layout, name)) == signature
    public = {name for name in dir(layout) if not name.startswith("_")}
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
    "terms": lambda store, scope, other: store.terms(scope, other.version),
    "neighbours": lambda store, scope, other: store.neighbours(scope, [other.version]),
    "dump": lambda store, scope, other: [
        each for each in store.dump(scope) if each.metadata["tag"] == "theirs"
    ],
    "forget": lambda store, scope, other: store.forget(scope, where={"tag": "theirs"}),
    "expire": lambda store, scope, other: store.expire(scope, {other.version: FAR}),
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
        arguments |= {"vector": [1.0] * DIM, "version": 1, "times": {}}
        for name, signature in METHODS.items():
            parameters = list(signature.parameters.values())[1:]
            if not parameters or parameters[0].name != "scope":
                continue
            needed = [
                arguments[p.name] for p in parameters[1:] if p.default is p.empty and p.name in arguments
            ]
            with pytest.raises(InvalidArgument, match="scope"):
                getattr(store, name)(scope, *needed)
