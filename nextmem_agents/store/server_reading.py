"""The server store's reading half: what is asked of the copy of a scope that this process keeps in step."""

from __future__ import annotations

import builtins
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from nextmem_agents.errors import ReadOnlyStore, StoreClosed, StoreError
from nextmem_agents.store import server_sharing, tables
from nextmem_agents.store.checks import (
    check_scope,
    check_versions,
)
from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.exact import Vectors
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.reading import PAGE, TableReading
from nextmem_agents.store.records import Access, NewRecord, Record, Where
from nextmem_agents.store.server_rows import CHUNK, CLOCK, chunk_id, vectors_of
from nextmem_agents.store.server_sharing import Shared


class ServerReading(TableReading):
    """An open collection, and every read of it; see :class:`~nextmem_agents.store.server.ServerStore`."""

    def __init__(self, shared: Shared, read_only: bool) -> None:
        self._shared = shared
        self._read_only = read_only
        self._closed = False

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

    def _nearest(
        self, scope: str, query: Vectors, k: int, where: Where | None, at: Moment
    ) -> builtins.list[tuple[int, float]]:
        shared = self._use()
        with shared.mutex:
            return shared.nearest(scope, query, k, where, at, shared.sync(scope, not self._read_only))

    def _dim(self) -> int:
        return self._use().codec.dim

    def _outline(self, sql: sqlite3.Connection, key: int | None, where: Where | None, at: Moment) -> Outline:
        return tables.outline(sql, key, where, at, self._shared.replica.outlines)

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
                if len(payloads) < n:
                    payloads = [b""] * n
                yield replace(record, payloads=payloads, vectors=vectors_of(chunks, n, dim))

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
