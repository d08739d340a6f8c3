"""Reading memories by id, in order, and through their history."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import overload

from nextmem_agents.asynchronous import async_iterator_twin, async_twin
from nextmem_agents.recall.hits import Memory
from nextmem_agents.scope.base import ScopeBase
from nextmem_agents.store.checks import check_count
from nextmem_agents.store.records import Record, Where

_PAGE = 64  # memories decoded together when all are listed


class Reading(ScopeBase):
    """The reading methods of a :class:`~nextmem_agents.Scope`."""

    @overload
    def get(self, id: str) -> Memory: ...  # type: ignore[overload-overlap]  # a string is a sequence of strings
    @overload
    def get(self, id: Sequence[str]) -> builtins.list[Memory]: ...
    def get(self, id: str | Sequence[str]) -> Memory | builtins.list[Memory]:  # noqa: A002 - the field's own name
        """The memory of an id, or the memories of a list of ids in order.

        Raises:
            MemoryNotFound: there is none of this id in this scope.
        """
        ids = [id] if isinstance(id, str) else id
        memories = self._all(lambda: self._store.get(self.name, ids))
        return memories[0] if isinstance(id, str) else memories

    def _all(self, read: Callable[[], builtins.list[Record]]) -> builtins.list[Memory]:
        """The memories of all records that ``read`` gives; it reads again, and may raise, if one is gone since."""
        while True:
            records = read()
            memories = self._memories(records)
            if len(memories) == len(records):
                return memories

    def list(
        self,
        *,
        where: Where | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        after: str | Memory | None = None,
        as_of: datetime | None = None,
    ) -> Iterator[Memory]:
        """All memories in the order they were written, or the newest first; texts are decoded page by page.

        Args:
            where: only memories that match.
            newest_first: the other way round.
            limit: at most this many: a page.
            after: the last memory of the page before, or its id. By its id, a memory that was updated since stands
                where its new version does, at the end.
            as_of: what held at this time, as it was then.

        Raises:
            MemoryNotFound: there is no memory ``after`` (any more).
        """
        last = after.record.version if isinstance(after, Memory) else after
        records = self._store.list(self.name, where, newest_first, limit, last, as_of)
        return self._listed(records)

    def _listed(self, records: Iterator[Record]) -> Iterator[Memory]:
        while page := [*islice(records, _PAGE)]:
            yield from self._memories(page)

    def count(self) -> int:
        """How many memories the scope holds."""
        return self._store.count(self.name)

    def sample(self, n: int) -> builtins.list[Memory]:
        """At most ``n`` memories, spread evenly over the order in which all were written.

        Raises:
            InvalidArgument: ``n`` is not at least 1.
        """
        n = check_count("n", n)
        versions = self._store.outline(self.name).versions
        chosen = versions[:: max(1, -(-len(versions) // n))].tolist()
        found = self._store.records(self.name, chosen)
        return self._memories([found[version] for version in chosen if version in found])

    def history(self, id: str) -> builtins.list[Memory]:  # noqa: A002 - the field's own name
        """All versions of a memory, oldest first, the present one last; their texts are decoded together.

        Raises:
            MemoryNotFound: there is none of this id in this scope.
        """
        return self._all(lambda: self._store.history(self.name, id))

    aget = async_twin(get)
    alist = async_iterator_twin(list)  # noqa: A003 - the method is meant
    acount = async_twin(count)
    asample = async_twin(sample)
    ahistory = async_twin(history)
