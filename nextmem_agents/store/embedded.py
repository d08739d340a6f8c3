"""The embedded store: one folder with ``records.sqlite3``, the truth, and ``chroma/``, the index over it."""

from __future__ import annotations

import builtins
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime

from nextmem_agents.errors import InvalidArgument, ReadOnlyStore, StoreClosed, StoreError
from nextmem_agents.store import folder as folders
from nextmem_agents.store import maintenance, tables
from nextmem_agents.store.checks import (
    check_count,
    check_expiries,
    check_ids,
    check_record,
    check_scope,
    check_versions,
    time_to_text,
)
from nextmem_agents.store.clock import Moment, moment, utc_now
from nextmem_agents.store.exact import Vectors
from nextmem_agents.store.filters import check_where
from nextmem_agents.store.folder import Codec, Folder
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.reading import PAGE, TableReading
from nextmem_agents.store.records import (
    Access,
    Check,
    NewRecord,
    Progress,
    Receipt,
    Report,
    Where,
)

EXACT_LIMIT = 20_000


class EmbeddedStore(TableReading):
    """A :class:`~nextmem_agents.store.records.Store` in one folder, for one writing process.

    Thread-safe. Within a process, opening the same folder again gives another handle on the same store; each
    handle is closed for itself. It must not be carried over a fork: the child's calls raise ``StoreError``.

    Scopes of up to ``exact_limit`` vectors are searched exactly. Larger ones have a Chroma collection each, which
    proposes, and the proposals are scored exactly; filters that leave at most ``exact_limit`` memories are searched
    exactly there too. A thread brings the index up to date behind the writes; what it has yet to take is looked at
    one by one, so that a memory is found as soon as it was written.
    """

    def __init__(self, folder: Folder, read_only: bool, exact_limit: int) -> None:
        self._folder = folder
        self._read_only = read_only
        self._exact_limit = exact_limit
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        dim: int,
        fingerprint: str,
        codec_name: str,
        read_only: bool = False,
        exact_limit: int = EXACT_LIMIT,
    ) -> EmbeddedStore:
        """Open a folder, making it if it is not there.

        Args:
            folder: the folder, or ``":memory:"`` for a store that lives as long as its handle.
            dim: D, the length of the index vectors.
            fingerprint: of the codec (and index vector) whose bytes the store holds.
            codec_name: the codec's name, for messages.
            read_only: read beside a writing process; takes no lock, uses no index, and cannot write.
            exact_limit: how many vectors of a scope are searched exactly; the first opening of a folder in a process
                decides which scopes the index serves.

        Raises:
            StoreLocked: another process writes to this folder.
            CodecMismatch: the folder belongs to another codec.
            NewerFormat: it was written by a newer version; nothing was touched.
            StoreError: it is damaged, no folder, not writable, or, read-only, not there.
        """
        for name, value in (("fingerprint", fingerprint), ("codec_name", codec_name)):
            if not isinstance(value, str) or not value:
                raise InvalidArgument(f"{name} must be a non-empty string, not {value!r:.80}")
        codec = Codec(check_count("dim", dim, bits=31), fingerprint, codec_name)
        limit = check_count("exact_limit", exact_limit)
        return cls(folders.acquire(folder, codec, read_only, limit), read_only, limit)

    def put(self, scope: str, records: Sequence[NewRecord]) -> builtins.list[str]:
        """Write all records in one transaction; see ``Store.put``."""
        name = check_scope(scope)
        if isinstance(records, NewRecord):
            raise InvalidArgument("put takes a list of records")
        with self._use(writing=True) as folder:
            checked = [check_record(record, folder.codec.dim) for record in records]
            if not checked:
                return []
            now = utc_now()
            written = []
            with folder.database.transaction(write=True) as sql:
                swept = tables.sweep(sql, time_to_text(now))
                folder.write_touches(sql)
                key = tables.make_scope(sql, name)
                appended = True
                tables.check_supersedes(sql, key, name, checked)
                tables.check_former(sql, key, name, checked)
                for record in checked:
                    repeated = tables.repeat_of(sql, key, record) if record.fold else None
                    if repeated is None:
                        appended &= not tables.insert(sql, key, record, now).replaced
                    written.append(repeated or record.id)
            changes = sum(len(record.payloads) for record in checked)
            folder.wrote(None if swept else key, appended, changes)
            return written

    def payloads(self, scope: str, versions: Sequence[int]) -> dict[int, builtins.list[bytes]]:
        """The payloads of each version, in chunk order; see ``Store.payloads``."""
        name, wanted = check_scope(scope), check_versions(versions)
        with self._reading(name) as (sql, key):
            return {} if key is None else tables.payloads(sql, key, wanted)

    def _nearest(
        self, scope: str, query: Vectors, k: int, where: Where | None, at: Moment
    ) -> builtins.list[tuple[int, float]]:
        with self._use() as folder:
            return folder.nearest(scope, query, k, where, self._exact_limit, at)

    def _dim(self) -> int:
        with self._use() as folder:
            return folder.codec.dim

    @contextmanager
    def _reading(self, scope: str) -> Iterator[tuple[sqlite3.Connection, int | None]]:
        with self._use() as folder, folder.database.transaction() as sql:
            yield sql, tables.scope_key(sql, scope)

    def _outline(self, sql: sqlite3.Connection, key: int | None, where: Where | None, at: Moment) -> Outline:
        return self._folder.outline(sql, key, where, at)

    def touch(self, scope: str, versions: Sequence[int]) -> None:
        """Note that these were recalled; see ``Store.touch``."""
        name, recalled = check_scope(scope), check_versions(versions)
        with self._use() as folder:
            if self._read_only or not recalled:
                return
            with folder.database.transaction() as sql:
                key = tables.scope_key(sql, name)
            if key is not None:
                now = time_to_text(utc_now())
                folder.touch(key, dict.fromkeys(recalled, now))

    def accesses(self, scope: str, versions: Sequence[int]) -> dict[int, Access]:
        """How often and when each was recalled; see ``Store.accesses``."""
        name, wanted = check_scope(scope), check_versions(versions)
        with self._reading(name) as (sql, key):
            if key is None:
                return {}
            here = tables.records(sql, key, wanted).keys()
            found = tables.accesses(sql, key, list(here))
            for version, (count, last) in self._folder.noted(key).items():
                if version in here:
                    written = found[version].count if version in found else 0
                    found[version] = Access(written + count, datetime.fromisoformat(last))
            return found

    def expire(self, scope: str, times: Mapping[int, datetime]) -> int:
        """Set when memories expire; see ``Store.expire``."""
        name, wanted = check_scope(scope), check_expiries(times)
        with self._use(writing=True) as folder, folder.database.transaction(write=True) as sql:
            key = tables.scope_key(sql, name)
            if key is None:
                return 0
            texts = {version: time_to_text(time) for version, time in wanted.items()}
            return tables.expire(sql, key, texts, moment().now)

    def forget(self, scope: str, ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete memories with all their versions; see ``Store.forget``."""
        name = check_scope(scope)
        if (ids is None) == (where is None):
            raise InvalidArgument("forget takes either ids or where")
        wanted = None if ids is None else check_ids(ids)
        check_where(where)
        if where is not None and not where:
            raise InvalidArgument("forget(where={}) would delete the whole scope; name what to forget")
        return self._forget(name, wanted, where)

    def clear(self, scope: str) -> int:
        """Delete every memory of the scope; see ``Store.clear``."""
        return self._forget(check_scope(scope), None, None)

    def _forget(self, name: str, ids: Sequence[str] | None, where: Where | None) -> int:
        with self._use(writing=True) as folder:
            with folder.database.transaction(write=True) as sql:
                swept = tables.sweep(sql, moment().now)
                key = tables.scope_key(sql, name)
                if ids is None:
                    ids = [] if key is None else tables.matching_ids(sql, key, where)
                forgotten = tables.forget(sql, key, name, ids)
            if swept:  # what had expired may have been any scope's
                folder.wrote(None)
            elif key is not None and forgotten:
                folder.wrote(key)
            return forgotten

    def erase(self, scope: str, on_deleted: Callable[[], object] | None = None) -> Receipt:
        """Delete every memory of the scope and its bytes in every file of the folder; see ``Store.erase``.

        The database is written anew and the index made by another process; then every file is read to its end
        for the bytes of the scope's payloads and vectors. What another scope holds too, such as the vector of the
        same words, is not counted.
        """
        name = check_scope(scope)
        with self._use(writing=True, index=True) as folder:
            return maintenance.erase(folder, name, on_deleted)

    def purge(self) -> int:
        """Delete what has expired; see ``Store.purge``. Every write and every opening does so as well."""
        with self._use(writing=True) as folder:
            with folder.database.transaction(write=True) as sql:
                purged = tables.sweep(sql, moment().now)
            if purged:
                folder.wrote(None)
            return purged

    def _dumped(self, scope: str, versions: Sequence[int]) -> Iterator[NewRecord]:
        for start in range(0, len(versions), PAGE):
            with self._reading(scope) as (sql, key):
                part = versions[start : start + PAGE]
                page = [] if key is None else [*tables.dump(sql, key, self._folder.codec.dim, part)]
            yield from (record for _, record in page)

    def scopes(self) -> builtins.list[str]:
        """The scopes that hold a memory, sorted."""
        with self._use() as folder, folder.database.transaction() as sql:
            return tables.scope_names(sql)

    def sizes(self) -> dict[str, int]:
        """Bytes on disk; see ``Store.sizes``. A store in memory reports its pages as ``records``."""
        with self._use() as folder:
            return folder.sizes()

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the Chroma index anew from the records; see ``Store.rebuild``."""
        with self._use(writing=True, index=True) as folder:
            assert folder.index is not None  # noqa: S101 -- only a read-only folder has none
            return folder.index.rebuild(progress)

    def verify(self, check: Check, progress: Progress | None = None) -> Report:
        """Look at every version, payload and vector; see ``Store.verify``.

        The index is compared vector by vector, so that rows which only its graph has lost are found, and mended.
        A read-only store has no index; its report says that the index was not repaired.
        """
        with self._use(index=True) as folder:
            return maintenance.verify(folder, check, progress)

    def compact(self) -> None:
        """Write the database anew and let another process make the index; see ``Store.compact``."""
        with self._use(writing=True, index=True) as folder:
            folder.remove_bytes()

    def flush(self) -> None:
        """Bring the Chroma index up to date; a failure is logged, and tried again at the next flush."""
        with self._use() as folder:
            if folder.index is None:
                return
            folder.write_touches()
        folder.index.flush()

    def close(self) -> None:
        """Close this handle; the last one flushes the index and gives the folder free."""
        if not self._closed:
            self._closed = True
            folders.release(self._folder)

    @contextmanager
    def _use(self, writing: bool = False, index: bool = False) -> Iterator[Folder]:
        """The folder, for this thread alone; with ``index``, while nothing is written to the index either."""
        folder = self._folder
        # Before the lock, which another thread may have held at the moment of the fork.
        if folder.pid != os.getpid():
            raise StoreError(
                f"this store was opened in process {folder.pid} and cannot be used after a fork; start "
                "workers with multiprocessing's 'spawn', or open the folder in the child with read_only=True"
            )
        with folder.index.work if index and folder.index else nullcontext(), folder.mutex:
            if self._closed:
                raise StoreClosed("the store was closed; open it again")
            if writing and self._read_only:
                raise ReadOnlyStore(
                    "the store was opened with read_only=True; open it for writing to change it"
                )
            if writing:
                folder.check_there()
            yield folder
