"""The server store's reading half: what is asked of the copy of a scope that this process keeps in step."""

from __future__ import annotations

import builtins
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TypeVar

import numpy.typing as npt

from nextmem_agents.errors import MemoryNotFound, ReadOnlyStore, StoreClosed, StoreError
from nextmem_agents.store import server_sharing, tables
from nextmem_agents.store.checks import (
    check_count,
    check_id,
    check_ids,
    check_scope,
    check_terms,
    check_vector,
    check_versions,
)
from nextmem_agents.store.clock import moment
from nextmem_agents.store.embedded import PAGE
from nextmem_agents.store.exact import unit
from nextmem_agents.store.filters import check_where
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import Access, NewRecord, Postings, Record, Where
from nextmem_agents.store.server_rows import CHUNK, CLOCK, chunk_id, vectors_of
from nextmem_agents.store.server_sharing import Shared

Self = TypeVar("Self", bound="ServerReading")


class ServerReading:
    """An open collection, and every read of it; see :class:`~nextmem_agents.store.server.ServerStore`."""

    def __init__(self, shared: Shared, read_only: bool) -> None:
        self._shared = shared
        self._read_only = read_only
        self._closed = False

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
        after: str | None = None,
        as_of: datetime | None = None,
    ) -> Iterator[Record]:
        """All records that match, by write order, in pages; see ``Store.list``."""
        name, at = check_scope(scope), moment(as_of)
        check_where(where)
        limit = None if limit is None else check_count("limit", limit)
        after = None if after is None else check_id(after)
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

    def payloads(self, scope: str, versions: Sequence[int]) -> dict[int, builtins.list[bytes]]:
        """The payloads of each version, in chunk order; see ``Store.payloads``."""
        name = check_scope(scope)
        return self._payloads(name, self.records(name, versions))

    def _payloads(self, scope: str, records: Mapping[int, Record]) -> dict[int, builtins.list[bytes]]:
        ids = {
            version: [chunk_id(version, chunk) for chunk in range(record.n_chunks)]
            for version, record in records.items()
        }
        collection = self._use().collection(scope)
        rows = collection.get([id_ for chunks in ids.values() for id_ in chunks], payloads=True)
        # A row that another has put in this one's place is left out, and its memory then says that it is damaged.
        return {
            version: [
                row.payload
                for row in (rows.get(id_) for id_ in chunks)
                if row is not None and row.payload is not None and row.metadata.get("of") == scope
            ]
            for version, chunks in ids.items()
        }

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
        shared = self._use()
        query = unit(check_vector("the query vector", vector, (shared.codec.dim,)))
        with shared.mutex:
            return shared.nearest(name, query, k, where, at, shared.sync(name, not self._read_only))

    def postings(
        self, scope: str, terms: Sequence[str], where: Where | None = None, as_of: datetime | None = None
    ) -> Postings:
        """The lexical index's answer to a query's terms; see ``Store.postings``."""
        name, wanted, at = check_scope(scope), check_terms(terms), moment(as_of)
        check_where(where)
        with self._reading(name) as (sql, key):
            return tables.postings(sql, key, wanted, where, at)

    def outline(self, scope: str, where: Where | None = None, as_of: datetime | None = None) -> Outline:
        """Who said what when, in which session; see ``Store.outline``."""
        name, at = check_scope(scope), moment(as_of)
        check_where(where)
        with self._reading(name) as (sql, key):
            return tables.outline(sql, key, where, at, self._shared.replica.outlines)

    def neighbours(
        self, scope: str, versions: Sequence[int], where: Where | None = None, as_of: datetime | None = None
    ) -> dict[int, builtins.list[int]]:
        """What was written directly before and after in the same session; see ``Store.neighbours``."""
        name, wanted, at = check_scope(scope), check_versions(versions), moment(as_of)
        check_where(where)
        with self._reading(name) as (sql, key):
            return {} if key is None else tables.neighbours(sql, key, wanted, where, at)

    def touch(self, scope: str, versions: Sequence[int]) -> None:
        """Note that these were recalled; see ``Store.touch``. Each process counts for itself, while it runs."""
        name, wanted = check_scope(scope), check_versions(versions)
        shared, now = self._use(), moment().now
        with shared.mutex, shared.replica.noting(name) as (sql, key):
            if key is not None:
                tables.touch(sql, key, {version: (wanted.count(version), now) for version in wanted})

    def accesses(self, scope: str, versions: Sequence[int]) -> dict[int, Access]:
        """How often and when this process has recalled each; see ``Store.accesses``."""
        name, wanted = check_scope(scope), check_versions(versions)
        with self._reading(name) as (sql, key):
            return {} if key is None else tables.accesses(sql, key, wanted)

    def dump(self, scope: str) -> Iterator[NewRecord]:
        """Every version as it was put, oldest first; see ``Store.dump``."""
        name = check_scope(scope)
        with self._reading(name) as (sql, key):
            versions = [] if key is None else tables.kept_versions(sql, key)
        return self._dumped(name, versions)

    def _dumped(self, scope: str, versions: Sequence[int]) -> Iterator[NewRecord]:
        dim = self._shared.codec.dim
        for start in range(0, len(versions), PAGE):
            with self._reading(scope) as (sql, key):
                page = [] if key is None else [*tables.dump(sql, key, dim, versions[start : start + PAGE])]
            ids = [chunk_id(version, chunk) for version, r in page for chunk in range(len(r.payloads))]
            rows = self._use().collection(scope).get(ids, vectors=True, payloads=True)
            for version, record in page:
                n = len(record.payloads)
                chunks = {c: row for c in range(n) if (row := rows.get(chunk_id(version, c))) is not None}
                payloads = [row.payload or b"" for _, row in sorted(chunks.items())]
                yield replace(record, payloads=payloads, vectors=vectors_of(chunks, n, dim))

    def count(self, scope: str) -> int:
        """How many memories the scope holds."""
        name = check_scope(scope)
        with self._reading(name) as (sql, key):
            return 0 if key is None else tables.lengths(sql, key, moment())[0]

    def scopes(self) -> builtins.list[str]:
        """The scopes that hold a memory, sorted; a small request for each that ever held one."""
        # A row may be of a put that was never finished, or of a memory that is being forgotten.
        found = []
        for name in self._names():
            with self._reading(name) as (sql, key):
                if key is not None and tables.matching_ids(sql, key, None):
                    found.append(name)
        return found

    def _names(self) -> builtins.list[str]:
        """The scopes that have rows, sorted."""
        found: set[str] = set()
        for collection in self._use().collections():
            ids = {row.metadata.get("scope_id") for row in collection.rows({"kind": CLOCK})}
            for id_ in ids:
                where = {"$and": [{"scope_id": id_}, {"kind": CHUNK}]}
                found.update(str(row.metadata["of"]) for row in collection.rows(where, limit=1))
        return sorted(found)

    def sizes(self) -> dict[str, int]:
        """Bytes of what is kept; see ``Store.sizes``.

        A server does not tell what it takes on disk: there ``chroma`` is 0, and the rest is what the rows hold.
        The lexical index is in the memory of each process.
        """
        shared = self._use()
        payloads = vectors = records = 0
        for collection in shared.collections():
            ids = collection.ids({"kind": CHUNK})
            for start in range(0, len(ids), PAGE):
                rows = collection.get(ids[start : start + PAGE], payloads=True).values()
                payloads += sum(len(row.payload or b"") for row in rows)
                vectors += 4 * shared.codec.dim * len(rows)
                records += sum(len(str(row.metadata.get("record", "")).encode()) for row in rows)
        return {
            "payloads": payloads,
            "vectors": vectors,
            "lexical": 0,
            "records": payloads + vectors + records,
            "chroma": shared.bytes_on_disk(),
        }

    def close(self) -> None:
        """Close this handle; the last one on a folder gives it free."""
        if not self._closed:
            self._closed = True
            server_sharing.release(self._shared)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _use(self, writing: bool = False) -> Shared:
        shared = self._shared
        if shared.pid != os.getpid():
            raise StoreError(
                f"this store was opened in process {shared.pid} and cannot be used after a fork; open the server "
                "in the child for itself, or start workers with multiprocessing's 'spawn'"
            )
        if self._closed:
            raise StoreClosed("the store was closed; open it again")
        if writing and self._read_only:
            raise ReadOnlyStore("the store was opened with read_only=True; open it for writing to change it")
        return shared

    @contextmanager
    def _reading(self, scope: str) -> Iterator[tuple[sqlite3.Connection, int | None]]:
        shared = self._use()
        with shared.mutex:
            shared.sync(scope, not self._read_only)
            with shared.replica.reading(scope) as found:
                yield found
