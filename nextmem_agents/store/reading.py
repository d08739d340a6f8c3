"""The reads that both layouts answer alike, from SQLite tables: the truth's own, or a copy of what a server holds."""

from __future__ import annotations

import builtins
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

import numpy.typing as npt

from nextmem_agents.errors import MemoryNotFound
from nextmem_agents.store import tables
from nextmem_agents.store.checks import (
    check_count,
    check_id,
    check_ids,
    check_scope,
    check_terms,
    check_vector,
    check_versions,
)
from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.exact import Vectors, unit
from nextmem_agents.store.filters import check_where
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import HeldTerm, NewRecord, Postings, Record, Where

if TYPE_CHECKING:
    from typing_extensions import Self

PAGE = 200


class TableReading(ABC):
    """Every read of a store that finds its records in tables; checks what it is asked before it looks."""

    @abstractmethod
    def _reading(self, scope: str) -> AbstractContextManager[tuple[sqlite3.Connection, int | None]]:
        """A transaction, and the scope's key, or None where it is empty."""

    @abstractmethod
    def _outline(self, sql: sqlite3.Connection, key: int | None, where: Where | None, at: Moment) -> Outline:
        """The outline of a scope that is checked."""

    @abstractmethod
    def _nearest(
        self, scope: str, query: Vectors, k: int, where: Where | None, at: Moment
    ) -> builtins.list[tuple[int, float]]:
        """The search by a query of length 1; everything is checked."""

    @abstractmethod
    def _dim(self) -> int:
        """D, the length of the index vectors; raises where the store cannot be used."""

    @abstractmethod
    def _dumped(self, scope: str, versions: Sequence[int]) -> Iterator[NewRecord]:
        """These versions as they were put."""

    @abstractmethod
    def close(self) -> None:
        """Close this handle."""

    def get(self, scope: str, ids: Sequence[str]) -> builtins.list[Record]:
        """The current records of these ids, in order; see ``Store.get``."""
        name, wanted = check_scope(scope), check_ids(ids)
        with self._reading(name) as (sql, key):
            at = moment()
            versions = tables.current_versions(sql, key, name, wanted, at)
            found = {} if key is None else tables.records(sql, key, versions, at)
            return [found[version] for version in versions]

    def list(
        self,
        scope: str,
        where: Where | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        after: str | int | None = None,
        as_of: datetime | None = None,
    ) -> Iterator[Record]:
        """All records that match, by write order, in pages; see ``Store.list``."""
        name, at = check_scope(scope), moment(as_of)
        check_where(where)
        limit = None if limit is None else check_count("limit", limit)
        if after is not None:
            after = check_versions([after])[0] if isinstance(after, int) else check_id(after)
        with self._reading(name) as (sql, key):
            versions = tables.listed_versions(sql, key, name, where, newest_first, limit, after, at)
        return self._pages(name, versions)

    def _pages(self, scope: str, versions: Sequence[int]) -> Iterator[Record]:
        for start in range(0, len(versions), PAGE):
            page = versions[start : start + PAGE]
            found = self.records(scope, page)
            yield from (found[version] for version in page if version in found)

    def history(self, scope: str, id: str) -> builtins.list[Record]:  # noqa: A002 -- the field's own name
        """All versions of one memory, oldest first; see ``Store.history``."""
        name, wanted = check_scope(scope), check_id(id)
        with self._reading(name) as (sql, key):
            found = [] if key is None else tables.history(sql, key, wanted)
        if not found:
            raise MemoryNotFound(f"there is no memory {wanted!r} in the scope {name!r}")
        return found

    def records(self, scope: str, versions: Sequence[int]) -> dict[int, Record]:
        """Records by version; see ``Store.records``."""
        name, wanted = check_scope(scope), check_versions(versions)
        with self._reading(name) as (sql, key):
            return {} if key is None else tables.records(sql, key, wanted)

    def nearest(
        self,
        scope: str,
        vector: npt.ArrayLike,
        k: int,
        where: Where | None = None,
        as_of: datetime | None = None,
    ) -> builtins.list[tuple[int, float]]:
        """The k most similar memories as (version, cosine); see ``Store.nearest``."""
        name, k, at = check_scope(scope), check_count("k", k), moment(as_of)
        check_where(where)
        query = unit(check_vector("the query vector", vector, (self._dim(),)))
        return self._nearest(name, query, k, where, at)

    def postings(
        self, scope: str, terms: Sequence[str], where: Where | None = None, as_of: datetime | None = None
    ) -> Postings:
        """The lexical index's answer to a query's terms; see ``Store.postings``."""
        name, wanted, at = check_scope(scope), check_terms(terms), moment(as_of)
        check_where(where)
        with self._reading(name) as (sql, key):
            return tables.postings(sql, key, wanted, where, at, self._outline(sql, key, None, at))

    def terms(self, scope: str, version: int) -> dict[str, HeldTerm]:
        """What a version was put with; see ``Store.terms``."""
        name, (wanted,) = check_scope(scope), check_versions([version])
        with self._reading(name) as (sql, key):
            return {} if key is None else tables.terms(sql, key, wanted)

    def outline(self, scope: str, where: Where | None = None, as_of: datetime | None = None) -> Outline:
        """Who said what when, in which session; see ``Store.outline``."""
        name, at = check_scope(scope), moment(as_of)
        check_where(where)
        with self._reading(name) as (sql, key):
            return self._outline(sql, key, where, at)

    def neighbours(
        self, scope: str, versions: Sequence[int], where: Where | None = None, as_of: datetime | None = None
    ) -> dict[int, builtins.list[int]]:
        """What was written directly before and after in the same session; see ``Store.neighbours``."""
        name, wanted, at = check_scope(scope), check_versions(versions), moment(as_of)
        check_where(where)
        with self._reading(name) as (sql, key):
            return {} if key is None else tables.neighbours(sql, key, wanted, where, at)

    def dump(self, scope: str) -> Iterator[NewRecord]:
        """Every version as it was put, oldest first, in pages; see ``Store.dump``."""
        name = check_scope(scope)
        with self._reading(name) as (sql, key):
            versions = [] if key is None else tables.kept_versions(sql, key)
        return self._dumped(name, versions)

    def count(self, scope: str) -> int:
        """How many memories the scope holds."""
        name = check_scope(scope)
        with self._reading(name) as (sql, key):
            return 0 if key is None else tables.count_held(sql, key, moment())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
