"""The embedded store: one folder with ``records.sqlite3``, the truth, and ``chroma/``, the index over it."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from types import TracebackType

import numpy.typing as npt

from nextmem_agents.errors import InvalidArgument, MemoryNotFound, ReadOnlyStore, StoreClosed, StoreError
from nextmem_agents.store import folder as folders
from nextmem_agents.store import maintenance, tables
from nextmem_agents.store.checks import (
    check_count,
    check_id,
    check_ids,
    check_record,
    check_scope,
    check_terms,
    check_vector,
    check_versions,
    time_to_text,
)
from nextmem_agents.store.clock import moment, utc_now
from nextmem_agents.store.exact import unit
from nextmem_agents.store.filters import check_where
from nextmem_agents.store.folder import Codec, Folder
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import (
    Access,
    Check,
    NewRecord,
    Postings,
    Progress,
    Receipt,
    Record,
    Report,
    Where,
)

EXACT_LIMIT = 20_000
PAGE = 200


class EmbeddedStore:
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
        codec = Codec(check_count("dim", dim), fingerprint, codec_name)
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
                tables.check_supersedes(sql, key, name, checked)
                for record in checked:
                    repeated = tables.repeat_of(sql, key, record) if record.fold else None
                    if repeated is None:
                        tables.insert(sql, key, record, now)
                    written.append(repeated or record.id)
            folder.wrote(None if swept else key)
            return written

    def get(self, scope: str, ids: Sequence[str]) -> builtins.list[Record]:
        """The current records of these ids, in order; see ``Store.get``."""
        name, wanted = check_scope(scope), check_ids(ids)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            versions = tables.current_versions(sql, key, name, wanted)
            found = {} if key is None else tables.records(sql, key, versions)
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
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            versions = tables.listed_versions(sql, key, name, where, newest_first, limit, after, at)
        return iter(()) if key is None else self._pages(key, versions)

    def _pages(self, key: int, versions: Sequence[int]) -> Iterator[Record]:
        for start in range(0, len(versions), PAGE):
            page = versions[start : start + PAGE]
            with self._use() as folder, folder.database.transaction() as sql:
                found = tables.records(sql, key, page)
            yield from (found[version] for version in page if version in found)

    def history(self, scope: str, id: str) -> builtins.list[Record]:  # noqa: A002 -- the field's own name
        """All versions of one memory, oldest first; see ``Store.history``."""
        name, wanted = check_scope(scope), check_id(id)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            found = [] if key is None else tables.history(sql, key, wanted)
        if not found:
            raise MemoryNotFound(f"there is no memory {wanted!r} in the scope {name!r}")
        return found

    def records(self, scope: str, versions: Sequence[int]) -> dict[int, Record]:
        """Records by version; see ``Store.records``."""
        name, wanted = check_scope(scope), check_versions(versions)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            return {} if key is None else tables.records(sql, key, wanted)

    def payloads(self, scope: str, versions: Sequence[int]) -> dict[int, builtins.list[bytes]]:
        """The payloads of each version, in chunk order; see ``Store.payloads``."""
        name, wanted = check_scope(scope), check_versions(versions)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            return {} if key is None else tables.payloads(sql, key, wanted)

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
        with self._use() as folder:
            query = unit(check_vector("the query vector", vector, (folder.codec.dim,)))
            return folder.nearest(name, query, k, where, self._exact_limit, at)

    def postings(
        self, scope: str, terms: Sequence[str], where: Where | None = None, as_of: datetime | None = None
    ) -> Postings:
        """The lexical index's answer to a query's terms; see ``Store.postings``."""
        name, wanted, at = check_scope(scope), check_terms(terms), moment(as_of)
        check_where(where)
        with self._use() as folder, folder.database.transaction() as sql:
            return tables.postings(sql, tables.scope_key(sql, name), wanted, where, at)

    def neighbours(
        self, scope: str, versions: Sequence[int], where: Where | None = None, as_of: datetime | None = None
    ) -> dict[int, builtins.list[int]]:
        """What was written directly before and after in the same session; see ``Store.neighbours``."""
        name, wanted, at = check_scope(scope), check_versions(versions), moment(as_of)
        check_where(where)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            return {} if key is None else tables.neighbours(sql, key, wanted, where, at)

    def outline(self, scope: str, where: Where | None = None, as_of: datetime | None = None) -> Outline:
        """Who said what when, in which session; see ``Store.outline``."""
        name, at = check_scope(scope), moment(as_of)
        check_where(where)
        with self._use() as folder, folder.database.transaction() as sql:
            return folder.outline(sql, name, where, at)

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
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            if key is None:
                return {}
            here = tables.records(sql, key, wanted).keys()
            found = tables.accesses(sql, key, list(here))
            for version, (count, last) in folder.noted(key).items():
                if version in here:
                    written = found[version].count if version in found else 0
                    found[version] = Access(written + count, datetime.fromisoformat(last))
            return found

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

    def erase(self, scope: str) -> Receipt:
        """Delete every memory of the scope and its bytes in every file of the folder; see ``Store.erase``.

        The database is written anew and the index made by another process; then every file is read to its end
        for the bytes of the scope's payloads and vectors. What another scope holds too, such as the vector of the
        same words, is not counted.
        """
        name = check_scope(scope)
        with self._use(writing=True, index=True) as folder:
            return maintenance.erase(folder, name)

    def purge(self) -> int:
        """Delete what has expired; see ``Store.purge``. Every write and every opening does so as well."""
        with self._use(writing=True) as folder:
            with folder.database.transaction(write=True) as sql:
                purged = tables.sweep(sql, moment().now)
            if purged:
                folder.wrote(None)
            return purged

    def dump(self, scope: str) -> Iterator[NewRecord]:
        """Every version as it was put, oldest first, in pages; see ``Store.dump``."""
        name = check_scope(scope)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            versions = [] if key is None else tables.kept_versions(sql, key)
        return iter(()) if key is None else self._dumped(key, versions)

    def _dumped(self, key: int, versions: Sequence[int]) -> Iterator[NewRecord]:
        for start in range(0, len(versions), PAGE):
            with self._use() as folder, folder.database.transaction() as sql:
                page = [*tables.dump(sql, key, folder.codec.dim, versions[start : start + PAGE])]
            yield from (record for _, record in page)

    def count(self, scope: str) -> int:
        """How many memories the scope holds."""
        name = check_scope(scope)
        with self._use() as folder, folder.database.transaction() as sql:
            key = tables.scope_key(sql, name)
            return 0 if key is None else tables.lengths(sql, key)[0]

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

    def __enter__(self) -> EmbeddedStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            yield folder
