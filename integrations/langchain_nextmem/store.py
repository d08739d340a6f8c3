"""``NextMemStore``: one scope as the long-term store of LangGraph."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from itertools import islice
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)
from langgraph.store.base.embed import get_text_at_path

from langchain_nextmem.filters import matches
from langchain_nextmem.scopes import scope_of
from nextmem_agents.errors import DamagedRecord, InvalidArgument, MemoryNotFound, ReadOnlyStore
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Memory
from nextmem_agents.scope import Scope
from nextmem_agents.store.clock import utc_now

Namespace = tuple[str, ...]

# Metadata of an item's memory. Each label of the namespace has a field of its own, so that prefixes are filters.
_KIND, _KEY, _NAMESPACE, _TTL, _OF = (
    f"langgraph_{name}" for name in ("kind", "key", "namespace", "ttl", "of")
)
# Items are listed as InMemoryStore lists them: by when their namespace, and then they, were first put.
_ORDER, _PLACE = "langgraph_order", "langgraph_place"
_ITEM, _UNINDEXED, _INDEX = "item", "unindexed item", "index"
_PAGE = 64


class NextMemStore(BaseStore):
    """A LangGraph store over one scope: items are memories, whose text is the value as JSON.

    It behaves as ``InMemoryStore`` does, and keeps what it is given. What differs: values must be JSON; an item that is
    put again keeps ``created_at``, and its former values stay in the scope's history; a namespace is listed as long as
    it has items; a comparison such as ``$gt`` with what is no number finds nothing, where ``InMemoryStore`` raises;
    and ``search(query=...)`` ranks as :meth:`Scope.recall` does.

    One store is one scope: users whose items must never meet have a store each. Other memories of the scope (a chat's)
    are not items and are not seen; ``NextMemMemory`` over the same scope would see the items, so give it another.

    Args:
        memory: a store (``user_id`` then names the scope), or the scope itself; by default the default store.
        user_id: whose items; None for the scope ``default``.
        fields: paths in a value that searches look at, as in LangGraph's ``index={"fields": [...]}``; by default the
            whole value. ``put(..., index=[...])`` chooses for one item, ``index=False`` leaves it out of searches.
        ttl: LangGraph's settings: ``default_ttl`` in minutes, and ``refresh_on_read``. What has expired is not found;
            :meth:`NextMem.purge` deletes it.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as memory:
        ...     store = NextMemStore(memory, user_id="alice")
        ...     store.put(("notes", "home"), "n1", {"text": "The spare key is under the blue pot."})
        ...     store.put(("notes", "work"), "n2", {"text": "The report is due on Friday."})
        ...     found = store.search(("notes",), query="Where is the spare key?", limit=1)[0]
        >>> found.key, found.namespace, found.value["text"]
        ('n1', ('notes', 'home'), 'The spare key is under the blue pot.')
    """

    supports_ttl = True

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        user_id: str | None = None,
        fields: Sequence[str] | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        self.scope = scope_of(NextMem.open() if memory is None else memory, user_id)
        self._fields = None if fields is None or list(fields) == ["$"] else list(fields)
        self.ttl_config = ttl
        self._order = 0
        self._writing = threading.Lock()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations; reads see what was there before the writes of the same batch.

        Raises:
            InvalidArgument: a value is no JSON, or a filter's operator is unknown; nothing was written.
            DamagedRecord: an item's stored bytes no longer check out.
        """
        puts: dict[tuple[Namespace, str], PutOp] = {}
        results: list[Result] = []
        for op in ops:
            if isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
                results.append(None)
            elif isinstance(op, GetOp):
                results.append(self._get(op))
            elif isinstance(op, SearchOp):
                results.append(self._search(op))
            elif isinstance(op, ListNamespacesOp):
                results.append(self._namespaces(op))
            else:
                raise InvalidArgument(f"{type(op).__name__} is no operation of a store")
        self._put(list(puts.values()))
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Async twin of ``batch``."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _get(self, op: GetOp) -> Item | None:
        found = self._memory(op.namespace, op.key)
        if found is None:
            return None
        if op.refresh_ttl:
            self._refresh([found])
        return Item(**_fields(found))

    def _memory(self, namespace: Namespace, key: str) -> Memory | None:
        try:
            return self.scope.get(_id(namespace, key))
        except MemoryNotFound:
            return None

    def _put(self, ops: Sequence[PutOp]) -> None:
        writes: list[_Write] = []
        gone: list[str] = []
        with self._writing:
            places: dict[Namespace, int] = {}
            for op in ops:
                own = _id(op.namespace, op.key)
                former = self._memory(op.namespace, op.key)
                indexes = [] if former is None else [each.id for each in self._indexes(own)]
                if op.value is None:
                    gone += [*indexes, *([] if former is None else [own])]
                    continue
                looked_at = self._looked_at(op)
                gone += indexes[len(looked_at or ()) :]
                if former is None:
                    if op.namespace not in places:
                        places[op.namespace] = self._place_of(op.namespace)
                    order = {_ORDER: self._next(), _PLACE: places[op.namespace]}
                else:
                    order = {name: int(former.metadata[name]) for name in (_ORDER, _PLACE)}
                writes += _writes(op, own, looked_at, order)
            # Search texts that are left over go first: an interruption must not leave an item with its former words.
            if gone:
                self.scope.forget(gone)
            now = utc_now()
            self.scope.remember(
                [write.text for write in writes],
                id=[write.id for write in writes],
                metadata=[write.metadata for write in writes],
                expires_at=[None if write.life is None else now + write.life for write in writes],
            )

    def _place_of(self, namespace: Namespace) -> int:
        """When the namespace was first put, as long as it has items; now, if it has none."""
        where = {_NAMESPACE: _names(namespace), _KIND: {"$in": [_ITEM, _UNINDEXED]}}
        first = next(self.scope.list(where=where, limit=1), None)
        return self._next() if first is None else int(first.metadata[_PLACE])

    def _looked_at(self, op: PutOp) -> list[str] | None:
        """The texts that searches look at; None for the whole value."""
        if op.index is False:
            return []
        paths = self._fields if op.index is None else list(op.index)
        if paths is None or paths == ["$"]:
            return None
        found = [text for path in paths for text in get_text_at_path(op.value, path)]
        return [text for text in dict.fromkeys(found) if text.strip()]

    def _indexes(self, own: str) -> list[Memory]:
        return sorted(
            self.scope.list(where={_KIND: _INDEX, _OF: own}),
            key=lambda memory: int(memory.id.rpartition(".")[2]),
        )

    def _next(self) -> int:
        """A number above all that came before, in this process and, by the clock, before it."""
        self._order = max(self._order + 1, time.time_ns())
        return self._order

    def _search(self, op: SearchOp) -> list[SearchItem]:
        where = _labels(op.namespace_prefix)
        listed = self._listed(where)
        scores = self._scores(op.query, where, len(listed)) if op.query else {}
        # What no search looks at comes last, without a score. Sorting is stable: the others stay as listed.
        ranked = sorted(listed, key=lambda memory: scores.get(memory.id, -1.0), reverse=True)
        found = islice(self._matching(ranked, op.filter), op.offset, op.offset + max(op.limit, 0))
        chosen = self._decoded_together(list(found))
        if op.refresh_ttl:
            self._refresh(chosen)
        return [SearchItem(**_fields(memory), score=scores.get(memory.id)) for memory in chosen]

    def _listed(self, where: Mapping[str, Any]) -> list[Memory]:
        found = self.scope.list(where={**where, _KIND: {"$in": [_ITEM, _UNINDEXED]}})
        return sorted(found, key=lambda memory: (memory.metadata[_PLACE], memory.metadata[_ORDER]))

    def _scores(self, query: str, where: Mapping[str, Any], n: int) -> dict[str, float]:
        if not n:
            return {}
        found: dict[str, float] = {}
        # An item may have several texts: its best one counts.
        for hit in self.scope.recall(
            query, k=max(64, 4 * n), where={**where, _KIND: {"$in": [_ITEM, _INDEX]}}
        ):
            own = str(hit.metadata.get(_OF, hit.id))
            found[own] = max(found.get(own, 0.0), hit.score)
        return found

    def _matching(self, memories: Sequence[Memory], wanted: Mapping[str, Any] | None) -> Iterator[Memory]:
        if not wanted:
            yield from memories
            return
        for start in range(0, len(memories), _PAGE):
            page = self._decoded_together(memories[start : start + _PAGE])
            yield from (memory for memory in page if matches(_value(memory), wanted))

    def _decoded_together(self, memories: Sequence[Memory]) -> list[Memory]:
        """The same in one batch, as they are now; without those that were deleted since."""
        ids = [memory.id for memory in memories]
        found = {memory.id: memory for memory in self.scope.list(where={"id": {"$in": ids}})} if ids else {}
        return [found[id_] for id_ in ids if id_ in found]

    def _refresh(self, memories: Iterable[Memory]) -> None:
        lives: dict[float, list[Memory]] = {}
        for memory in memories:
            if (minutes := memory.metadata.get(_TTL)) is not None:
                indexes = self._indexes(memory.id) if memory.metadata[_KIND] == _UNINDEXED else []
                lives.setdefault(float(minutes), []).extend([memory, *indexes])
        for minutes, each in lives.items():
            try:
                self.scope.expire(each, ttl=timedelta(minutes=minutes))
            except ReadOnlyStore:  # there, the process that writes says how long they live
                return

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        found = {_namespace(memory) for memory in self._listed({})}
        for condition in op.match_conditions or ():
            if condition.match_type not in ("prefix", "suffix"):
                raise InvalidArgument(
                    f"namespaces match by 'prefix' or 'suffix', not {condition.match_type!r}"
                )
            found = {
                each for each in found if _fits(each, tuple(condition.path), condition.match_type == "suffix")
            }
        if op.max_depth is not None:
            found = {each[: op.max_depth] for each in found}
        return sorted(found)[op.offset : op.offset + op.limit]


@dataclass(frozen=True)
class _Write:
    """One memory to be written for an item."""

    id: str
    text: str
    metadata: dict[str, Any]
    life: timedelta | None


def _writes(op: PutOp, own: str, looked_at: Sequence[str] | None, order: Mapping[str, int]) -> list[_Write]:
    life = None if op.ttl is None else _life(op.ttl)
    labels = _labels(op.namespace)
    metadata = {
        _KIND: _ITEM if looked_at is None else _UNINDEXED,
        _KEY: op.key,
        _NAMESPACE: _names(op.namespace),
        **order,
        **labels,
        **({} if op.ttl is None else {_TTL: float(op.ttl)}),
    }
    indexes = [
        _Write(f"{own}.{n}", text, {_KIND: _INDEX, _OF: own, **labels}, life)
        for n, text in enumerate(looked_at or ())
    ]
    return [_Write(own, _json(op), metadata, life), *indexes]


def _life(minutes: float) -> timedelta:
    try:
        life = timedelta(minutes=minutes)
        utc_now() + life
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidArgument(f"an item's ttl is a number of minutes, not {minutes!r:.80}") from error
    if life <= timedelta(0):
        raise InvalidArgument(f"an item's ttl is more than 0 minutes, not {minutes!r:.80}")
    return life


def _fits(namespace: Namespace, path: Namespace, from_end: bool) -> bool:
    part = namespace[len(namespace) - len(path) :] if from_end else namespace[: len(path)]
    return len(part) == len(path) and all(
        asked in ("*", label) for asked, label in zip(path, part, strict=True)
    )


def _id(namespace: Namespace, key: str) -> str:
    """One id per place, of any length of names; JSON keeps ("a", "bc") and ("ab", "c") apart."""
    place = json.dumps([list(namespace), key]).encode()
    return f"langgraph-{blake2b(place, digest_size=16).hexdigest()}"


def _labels(namespace: Namespace) -> dict[str, Any]:
    return {f"langgraph_label_{depth}": label for depth, label in enumerate(namespace)}


def _names(namespace: Namespace) -> str:
    return json.dumps(list(namespace), ensure_ascii=False)


def _namespace(memory: Memory) -> Namespace:
    return tuple(json.loads(str(memory.metadata[_NAMESPACE])))


def _json(op: PutOp) -> str:
    try:
        _check_keys(op.value)
        return json.dumps(op.value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the value of {op.key!r} in {op.namespace} cannot be kept as JSON: {error}; give strings, numbers, "
            "booleans, None, lists and dictionaries with string keys"
        ) from error


def _check_keys(value: Any) -> None:
    """JSON would turn other keys into strings, and so change the value."""
    if isinstance(value, Mapping):
        if other := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"the key {other[0]!r} is no string")
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for item in value:
        _check_keys(item)


def _value(memory: Memory) -> dict[str, Any]:
    text = memory.text
    if not memory.exact:
        raise DamagedRecord(
            f"the item {memory.metadata[_KEY]!r} does not come back exactly; put it again, or delete it"
        )
    value: dict[str, Any] = json.loads(text)
    return value


def _fields(memory: Memory) -> dict[str, Any]:
    return {
        "value": _value(memory),
        "key": str(memory.metadata[_KEY]),
        "namespace": _namespace(memory),
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
    }
