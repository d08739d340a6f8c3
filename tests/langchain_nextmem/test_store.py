"""NextMemStore: the same answers as LangGraph's InMemoryStore, whatever is done, and kept on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from langchain_nextmem import NextMemMemory, NextMemStore
from nextmem_agents import InvalidArgument, LatentCodec, NextMem, Scope
from tests.langchain_nextmem.conftest import ScriptedModel
from tests.langchain_nextmem.fake_codec import FakeCodec, compress

# 10,000 and 300 are the bars; a continuous run does fewer.
OPERATIONS = int(os.environ.get("NEXTMEM_STORE_OPERATIONS", "400"))
OPERATIONS_ON_MINI = int(os.environ.get("NEXTMEM_STORE_OPERATIONS_ON_MINI", "40"))


class Reference(InMemoryStore):
    """InMemoryStore without its one slip: a namespace that was only read, or has no items left, is none."""

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        reads = [op for op in ops if not isinstance(op, PutOp)]
        answers = iter([self._one(op) for op in reads])
        results = [None if isinstance(op, PutOp) else next(answers) for op in ops]
        super().batch([op for op in ops if isinstance(op, PutOp)])
        self._drop_empty()
        return results

    def _one(self, op: Op) -> Result:
        answer = super().batch([op])[0]
        self._drop_empty()
        return answer

    def _drop_empty(self) -> None:
        for namespace in [each for each, items in self._data.items() if not items]:
            del self._data[namespace]


def plain(result: Any) -> Any:
    """A result without its times and scores."""
    if isinstance(result, list):
        return [plain(each) for each in result]
    if result is None or isinstance(result, tuple):
        return result
    return type(result).__name__, result.namespace, result.key, result.value


labels = st.sampled_from(["users", "notes", "a", "b", "Ä 🎉", "u*"])
namespaces = st.lists(labels, min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["k1", "k2", "k3", "", "ключ"])
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, "x", "y", "", "a\nb\u2028"])
values = st.fixed_dictionaries(
    {"n": st.integers(-3, 3)},
    optional={
        "tag": scalars,
        "inner": st.dictionaries(st.sampled_from("pq"), scalars),
        "list": st.lists(scalars, max_size=2),
    },
)
conditions = (
    scalars
    | st.fixed_dictionaries({}, optional={"$eq": scalars, "$ne": scalars})
    | st.dictionaries(st.sampled_from("pq"), scalars, max_size=1)
    | st.lists(scalars, max_size=2)
)
numbers = st.dictionaries(
    st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.integers(-3, 3), min_size=1, max_size=2
)
filters = st.fixed_dictionaries(
    {},
    optional={"n": st.integers(-3, 3) | numbers, "tag": conditions, "inner": conditions, "list": conditions},
)
paths = st.lists(labels | st.just("*"), max_size=3).map(tuple)
puts = st.builds(
    PutOp, namespaces, keys, values | st.none(), st.sampled_from([None, False, ["tag"]]), ttl=st.none()
)
gets = st.builds(GetOp, namespaces, keys, st.booleans())
searches = st.builds(
    SearchOp,
    namespaces | st.just(()),
    st.none() | filters,
    st.integers(0, 6),
    st.integers(0, 3),
    st.none(),
    st.booleans(),
)
lists = st.builds(
    ListNamespacesOp,
    st.none()
    | st.lists(st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths), max_size=2).map(
        tuple
    ),
    st.none() | st.integers(1, 3),
    st.integers(0, 6),
    st.integers(0, 2),
)
batches = st.lists(puts | puts | gets | searches | lists, min_size=1, max_size=6)


def same(store: NextMemStore, reference: Reference, ops: list[Op]) -> None:
    assert plain(store.batch(ops)) == plain(reference.batch(ops)), ops


def at_random(memory: NextMem, name: str, n: int) -> None:
    """One long course of operations, by hypothesis's own strategies, from one seed."""
    store, reference = NextMemStore(memory, user_id=name), Reference()
    done = 0

    @settings(
        max_examples=max(1, n // 3),
        phases=[Phase.generate],  # a shorter course would be another one
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(ops=batches)
    def course(ops: list[Op]) -> None:
        nonlocal done
        same(store, reference, ops)
        done += len(ops)

    course()
    while done < n:
        ops: list[Op] = [GetOp(("users",), "k1"), SearchOp(())]
        same(store, reference, ops)
        done += len(ops)
    assert plain(store.batch([SearchOp((), limit=10_000)])) == plain(
        reference.batch([SearchOp((), limit=10_000)])
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("nextmem_agents.scope.writing.compress", compress)
    monkeypatch.setattr("nextmem_agents.memory.LatentCodec", FakeCodec)
    with NextMem.open(":memory:", codec=FakeCodec()) as memory:  # type: ignore[arg-type]
        yield memory


def test_random_operations_on_a_fake_codec(fake: NextMem) -> None:
    at_random(fake, "alice", OPERATIONS)


def test_random_operations_on_mini(memory: NextMem) -> None:
    at_random(memory, "alice", OPERATIONS_ON_MINI)


@pytest.fixture
def store(alice: Scope) -> NextMemStore:
    return NextMemStore(alice)


def test_puts_of_one_batch_are_seen_after_it_and_the_last_counts(store: NextMemStore) -> None:
    ops: list[Op] = [
        PutOp(("a",), "k", {"v": 1}),
        GetOp(("a",), "k"),
        PutOp(("a",), "k", {"v": 2}),
        ListNamespacesOp(),
    ]
    assert store.batch(ops) == [None, None, None, []]
    item = store.get(("a",), "k")
    assert item is not None
    assert (item.value, item.key, item.namespace) == ({"v": 2}, "k", ("a",))


def test_an_item_that_is_put_again_keeps_its_age_and_its_history(store: NextMemStore) -> None:
    store.put(("a",), "k", {"v": 1})
    first = store.get(("a",), "k")
    store.put(("a",), "k", {"v": 2})
    second = store.get(("a",), "k")
    assert first is not None
    assert second is not None
    assert (second.created_at, second.updated_at > first.updated_at) == (first.created_at, True)
    (memory,) = store.scope.list()
    assert [version.text for version in store.scope.history(memory.id)] == ['{"v": 1}', '{"v": 2}']


async def test_async_twins_and_disk(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        store = NextMemStore(memory, user_id="alice")
        await store.aput(("notes",), "n", {"text": "The spare key is under the blue pot.", "year": 2025})
    with NextMem.open(tmp_path, codec=codec) as memory:
        store = NextMemStore(memory, user_id="alice")
        found = await store.asearch(("notes",), filter={"year": {"$gte": 2025}})
        assert found[0].value == {"text": "The spare key is under the blue pot.", "year": 2025}
        assert await store.alist_namespaces() == [("notes",)]
        await store.adelete(("notes",), "n")
        assert await store.aget(("notes",), "n") is None
        assert memory.scope("alice").count() == 0


def test_a_question_ranks_and_what_is_not_looked_at_comes_last(store: NextMemStore) -> None:
    store.put(("notes",), "hidden", {"text": "The spare key hangs in the shed."}, index=False)
    store.put(("notes",), "report", {"text": "The report on spare parts is due on Friday."})
    store.put(("notes",), "key", {"text": "The spare key is under the blue pot."})
    store.put(("other",), "key", {"text": "The spare key is elsewhere."})
    found = store.search(("notes",), query="Where is the spare key?")
    assert found[0].key == "key"
    assert found[-1].key == "hidden"
    assert found[-1].score is None
    scores = [item.score for item in found[:-1]]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    assert [
        item.key for item in store.search(("notes",), query="Where is the spare key?", limit=1, offset=1)
    ] == [found[1].key]


def test_fields_are_what_a_question_is_compared_with(alice: Scope) -> None:
    store = NextMemStore(alice, fields=["title"])
    store.put(("d",), "one", {"title": "Harbour tides", "body": "spare key"})
    store.put(("d",), "two", {"title": "Garden plan", "body": "harbour"}, index=["body"])
    store.put(("d",), "three", {"body": "harbour"})
    found = {item.key: item.score for item in store.search(("d",), query="spare key harbour tides")}
    assert next(iter(found)) == "one"
    assert found["three"] is None
    assert all(score is not None for key, score in found.items() if key != "three")
    # Put again, its former search text is gone.
    store.put(("d",), "one", {"title": "Bread", "body": ""}, index=False)
    assert {item.key: item.score for item in store.search(("d",), query="harbour tides")}["one"] is None
    store.delete(("d",), "two")
    store.delete(("d",), "one")
    store.delete(("d",), "three")
    assert alice.count() == 0


def test_items_expire_and_a_read_gives_them_their_time_again(store: NextMemStore) -> None:
    store.put(("a",), "short", {"v": 1}, ttl=0.6 / 60)
    store.put(("a",), "kept", {"v": 2}, ttl=60)
    before = store.scope.get([memory.id for memory in store.scope.list()])
    assert store.get(("a",), "kept", refresh_ttl=False) is not None
    time.sleep(0.7)
    assert store.get(("a",), "short") is None
    assert [item.key for item in store.search(("a",), refresh_ttl=True)] == ["kept"]
    (after,) = store.scope.list()
    expiry = {memory.id: memory.record.expires_at for memory in before}[after.id]
    assert expiry is not None
    assert after.record.expires_at is not None
    assert after.record.expires_at > expiry
    for wrong in (0, -1, 1e16):
        with pytest.raises(InvalidArgument, match="minutes"):
            store.put(("a",), "k", {"v": 1}, ttl=wrong)
    assert NextMemStore(store.scope, ttl={"default_ttl": 5}).ttl_config == {"default_ttl": 5}


def test_one_store_is_one_scope_and_a_chats_memories_are_no_items(memory: NextMem) -> None:
    alice, bob = (NextMemStore(memory, user_id=name) for name in ("alice", "bob"))
    alice.put(("a",), "k", {"v": "zebra"})
    NextMemMemory(memory=memory, user_id="alice").save_context({"input": "zebra"}, {"output": "So."})
    assert bob.get(("a",), "k") is None
    assert bob.search((), query="zebra") == []
    assert bob.list_namespaces() == []
    assert [item.key for item in alice.search((), query="zebra")] == ["k"]


@pytest.mark.parametrize("value", [{"x": object()}, {"x": {1: 2}}, {"x": {3}}, {"x": "\ud800"}])
def test_what_is_no_json_is_refused_and_nothing_is_written(
    store: NextMemStore, value: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument):
        store.batch([PutOp(("a",), "good", {"v": 1}), PutOp(("a",), "bad", value)])
    assert store.scope.count() == 0


def test_a_malformed_filter_or_namespace_is_an_error(store: NextMemStore) -> None:
    store.put(("a",), "k", {"v": 1})
    with pytest.raises(InvalidArgument, match=r"'\$in' is no operator"):
        store.search(("a",), filter={"v": {"$in": [1]}})
    with pytest.raises(InvalidNamespaceError):
        store.put(("a.b",), "k", {"v": 1})
    with pytest.raises(InvalidArgument, match="no operation"):
        store.batch(["get"])  # type: ignore[list-item]


def test_names_of_any_length_and_kind_are_kept_apart(store: NextMemStore) -> None:
    rng = Random(0)
    places = [(("a" * 400,), "b" * 400), (("a",), "bc"), (("ab",), "c"), (("a", "b"), "c"), (("a",), 'b","c')]
    rng.shuffle(places)
    for i, (namespace, key) in enumerate(places):
        store.put(namespace, key, {"i": i})
    for i, (namespace, key) in enumerate(places):
        item = store.get(namespace, key)
        assert item is not None
        assert (item.value, item.namespace, item.key) == ({"i": i}, namespace, key)


def test_an_agents_tools_use_it(alice: Scope) -> None:
    @tool
    def note(text: str, runtime: ToolRuntime) -> str:
        """Keep a note."""
        assert runtime.store is not None
        runtime.store.put(("notes",), "n", {"text": text})
        return "Kept."

    call = AIMessage("", tool_calls=[{"name": "note", "args": {"text": "Buy milk."}, "id": "c1"}])
    agent = create_agent(ScriptedModel(lines=[call, "Done."]), [note], store=NextMemStore(alice))
    agent.invoke({"messages": [HumanMessage("Note: buy milk.")]})
    item = NextMemStore(alice).get(("notes",), "n")
    assert item is not None
    assert item.value == {"text": "Buy milk."}


def test_a_read_lengthens_an_items_life_and_changes_nothing_else(fake: NextMem) -> None:
    store = NextMemStore(fake, user_id="ann")
    store.put(("n",), "k", {"n": 1}, ttl=60)
    store.put(("n",), "other", {"n": 2}, index=["n"], ttl=60)
    first = store.get(("n",), "k", refresh_ttl=False)
    [memory] = store.scope.list(where={"langgraph_key": "k"})
    assert store.get(("n",), "k").updated_at == first.updated_at
    found = {item.key: item for item in store.search(("n",))}
    assert (len(found), found["k"].updated_at) == (2, first.updated_at)
    [longer] = store.scope.list(where={"langgraph_key": "k"})
    assert longer.record.expires_at > memory.record.expires_at
    assert len(store.scope.history(memory.id)) == 1


def test_a_read_beside_a_delete_does_not_bring_an_item_back(
    fake: NextMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = NextMemStore(fake, user_id="ann")
    store.put(("n",), "k", {"n": 1}, ttl=60)
    refresh = store._refresh

    def delete_first(memories: Any) -> None:
        store.delete(("n",), "k")
        refresh(memories)

    monkeypatch.setattr(store, "_refresh", delete_first)
    assert store.get(("n",), "k").value == {"n": 1}
    assert store.get(("n",), "k") is None
