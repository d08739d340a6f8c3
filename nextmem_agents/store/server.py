"""The server store: memories in a Chroma collection and nowhere else, for many processes on many machines."""

from __future__ import annotations

import builtins
import os
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from nextmem_agents.errors import InvalidArgument, MemoryNotFound, Overtaken, StoreError
from nextmem_agents.store import server_sharing, tables
from nextmem_agents.store.checks import (
    check_count,
    check_expiries,
    check_ids,
    check_record,
    check_scope,
)
from nextmem_agents.store.clock import moment, utc_now
from nextmem_agents.store.embedded import EXACT_LIMIT
from nextmem_agents.store.filters import check_where
from nextmem_agents.store.folder import MEMORY, Codec
from nextmem_agents.store.reading import PAGE
from nextmem_agents.store.records import (
    Check,
    NewRecord,
    Progress,
    Receipt,
    Report,
    Where,
)
from nextmem_agents.store.server_address import TIMEOUT, check_timeout
from nextmem_agents.store.server_commit import Forgotten, expired_ids
from nextmem_agents.store.server_connection import Medium
from nextmem_agents.store.server_reading import ServerReading
from nextmem_agents.store.server_rows import CHUNK
from nextmem_agents.store.server_sharing import DATA, Isolation, Shared, check_isolation
from nextmem_agents.store.server_verification import verify

COLLECTION = "nextmem"

# 32 of a digest and a point follow it with isolation="collection"; Chroma takes 512.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,200}[a-zA-Z0-9]")


class ServerStore(ServerReading):
    """A :class:`~nextmem_agents.store.records.Store` whose memories lie in a Chroma collection, payloads included.

    Many processes on many machines may read and write it through a server at once (:meth:`open`); one process may
    have it in a folder (:meth:`open_folder`). Every write is durable, searchable and seen by all other processes
    when it returns. Thread-safe: threads that write at once are served by one request. It must not be carried
    over a fork: the child's calls raise ``StoreError``; a child opens the server for itself.

    Scopes of up to ``exact_limit`` vectors are searched exactly, in this process, which keeps the records and
    vectors of the scopes it uses (not their payloads) in memory. In larger ones Chroma proposes and the
    proposals are scored exactly.
    """

    @classmethod
    def open(
        cls,
        url: str,
        *,
        dim: int,
        fingerprint: str,
        codec_name: str,
        collection: str = COLLECTION,
        isolation: Isolation = "shared",
        headers: Mapping[str, str] | None = None,
        tenant: str | None = None,
        database: str | None = None,
        timeout: float = TIMEOUT,
        read_only: bool = False,
        exact_limit: int = EXACT_LIMIT,
    ) -> ServerStore:
        """Open a collection on a Chroma server, making it if it is not there.

        Args:
            url: ``http://host:port`` or ``https://host:port``; nothing else is contacted.
            dim: D, the length of the index vectors.
            fingerprint: of the codec (and index vector) whose bytes the store holds.
            codec_name: the codec's name, for messages.
            collection: its name on the server.
            isolation: ``"collection"`` gives each scope a collection of its own, for few and large tenants: one
                costs the server 2.6 MB of memory and 4 open files.
            headers: sent with every request, such as ``{"Authorization": "Bearer …"}``.
            tenant: Chroma's tenant, where the server has several.
            database: Chroma's database, likewise.
            timeout: seconds that a request may take.
            read_only: refuse to write.
            exact_limit: how many vectors of a scope are searched exactly.

        Raises:
            CodecMismatch: the collection belongs to another codec.
            NewerFormat: it was written by a newer version; nothing was touched.
            StoreError: no Chroma server of version 1.0 or later answers, it wants credentials, or the collection is
                another program's.
        """
        codec = _codec(dim, fingerprint, codec_name)
        isolated, limit = check_isolation(isolation), check_count("exact_limit", exact_limit)
        name, seconds = _check_name(collection), check_timeout(timeout)
        medium = Medium.connect(url, headers=headers, tenant=tenant, database=database, timeout=seconds)
        try:
            return cls(Shared(medium, name, codec, isolated, limit), read_only)
        except BaseException:
            medium.close()
            raise

    @classmethod
    def open_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        dim: int,
        fingerprint: str,
        codec_name: str,
        isolation: Isolation = "shared",
        read_only: bool = False,
        exact_limit: int = EXACT_LIMIT,
    ) -> ServerStore:
        """Open the same collection inside this process, in a folder that one process has at a time.

        Args:
            folder: the folder, or ``":memory:"`` for a store that lives as long as its handle.
            dim: D, the length of the index vectors.
            fingerprint: of the codec whose bytes the store holds.
            codec_name: the codec's name, for messages.
            isolation: as in :meth:`open`.
            read_only: refuse to write. Chroma does not bear a second process, not even a reading one.
            exact_limit: how many vectors of a scope are searched exactly.

        Raises:
            StoreLocked: another process has this folder open.
            CodecMismatch: the folder belongs to another codec.
            NewerFormat: it was written by a newer version; nothing was touched.
            StoreError: it is damaged, not writable, or, read-only, not there.
        """
        codec = _codec(dim, fingerprint, codec_name)
        isolated, limit = check_isolation(isolation), check_count("exact_limit", exact_limit)
        path = None if os.fspath(folder) == MEMORY else Path(folder)
        payload_of(folder, "chroma")
        if read_only and path is None:
            raise InvalidArgument("':memory:' has nothing to read yet; read_only=True needs a folder")
        if read_only and path is not None and not (path / DATA).exists():
            raise StoreError(f"there is no store to read at {path}")
        shared = server_sharing.acquire_folder(
            path,
            lambda medium, lock, name: Shared(medium, name or COLLECTION, codec, isolated, limit, lock),
            lambda open_: open_.check(codec, isolated, COLLECTION),
        )
        return cls(shared, read_only)

    def put(self, scope: str, records: Sequence[NewRecord]) -> builtins.list[str]:
        """Write all records, all or none; see ``Store.put``.

        Two processes that fold the same text at the same moment may both write it.
        """
        name = check_scope(scope)
        if isinstance(records, NewRecord):
            raise InvalidArgument("put takes a list of records")
        shared = self._use(writing=True)
        checked = [check_record(record, shared.codec.dim) for record in records]
        return shared.committer.put(name, checked) if checked else []

    def expire(self, scope: str, times: Mapping[int, datetime]) -> int:
        """Set when memories expire; see ``Store.expire``. Each is written once more, so that all processes see it."""
        name, n = check_scope(scope), 0
        for version, expires in check_expiries(times).items():
            for record in self._dumped(name, [version]):
                try:
                    if all(record.payloads):  # what is damaged is not to pass for a memory of no bytes
                        self.put(name, [replace(record, expires_at=expires, former=version)])
                        n += 1
                except (MemoryNotFound, Overtaken):
                    continue
        return n

    def forget(self, scope: str, ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete memories with all their versions; see ``Store.forget``.

        They are off every read path, in every process, from one moment on; then their rows are deleted, and read
        for to prove it. A process that dies between the two leaves that to the next one that uses the scope.
        """
        name = check_scope(scope)
        if (ids is None) == (where is None):
            raise InvalidArgument("forget takes either ids or where")
        wanted = None if ids is None else check_ids(ids)
        check_where(where)
        if where is not None and not where:
            raise InvalidArgument("forget(where={}) would delete the whole scope; name what to forget")
        return self._forget(name, wanted, where).memories

    def clear(self, scope: str) -> int:
        """Delete every memory of the scope; see ``Store.clear``."""
        return self._forget(check_scope(scope), None, None).memories

    def _forget(self, name: str, ids: Sequence[str] | None, where: Where | None) -> Forgotten:
        def select(sql: sqlite3.Connection, key: int | None) -> Sequence[str]:
            if ids is not None:
                tables.current_versions(sql, key, name, ids)
                return ids
            return [] if key is None else tables.matching_ids(sql, key, where)

        return self._use(writing=True).committer.forget(name, select)

    def purge(self) -> int:
        """Delete what has expired, in all scopes; see ``Store.purge``."""
        shared, now = self._use(writing=True), moment().now
        return sum(
            shared.committer.forget(name, lambda sql, key: expired_ids(sql, key, now)).memories
            for name in self._names()
        )

    def erase(self, scope: str, on_deleted: Callable[[], object] | None = None) -> Receipt:
        """Delete every memory of the scope, expired ones included; see ``Store.erase``.

        That no row of them can be read any more is proven by reading; what Chroma leaves in its files, in its log
        and in copies of them is out of a client's sight, and the receipt says so.
        """
        name = check_scope(scope)
        shared = self._use(writing=True)

        def every(sql: sqlite3.Connection, key: int | None) -> Sequence[str]:
            return [id_ for (id_,) in sql.execute("SELECT id FROM memories WHERE scope = ?", (key,))]

        gone = shared.committer.forget(name, every)
        if on_deleted is not None:
            on_deleted()
        not_proven = [
            "the bytes in Chroma's files: it marks deleted rows and reuses their room later; only a new collection "
            "in a new folder holds nothing of them",
            "backups and logs of the machine that Chroma runs on",
        ]
        if shared.isolation == "collection":
            shared.drop(name)
        return Receipt(
            name,
            gone.memories,
            gone.versions,
            gone.chunks,
            utc_now(),
            proven=False,
            not_proven=tuple(not_proven),
        )

    def verify(self, check: Check, progress: Progress | None = None) -> Report:
        """Look at every version, payload and vector; see ``Store.verify``.

        Vectors that the index does not reach are written to it once more; those of a row that cannot be read are
        lost, and their memory is among the damaged.
        """
        return verify(self._use(), self._names(), self._payloads, check, progress, mend=not self._read_only)

    def compact(self) -> None:
        """Remove what writers left unfinished and what was forgotten and is still there; see ``Store.compact``.

        Chroma gives no disk back while it runs: stop it and use ``chroma vacuum`` for that.
        """
        self._use(writing=True)
        for name in self._names():
            with self._reading(name):
                pass  # a sync removes it

    def rebuild(self, progress: Progress | None = None) -> int:
        """Write every vector to Chroma's index once more; see ``Store.rebuild``.

        The rows themselves are the truth here, and stay as they are.
        """
        shared = self._use(writing=True)
        found = [(each, each.ids({"kind": CHUNK})) for each in shared.collections()]
        total, done = sum(len(ids) for _, ids in found), 0
        for collection, ids in found:
            for start in range(0, len(ids), PAGE):
                rows = collection.get(ids[start : start + PAGE], vectors=True)
                collection.reindex([row for row in rows.values() if row.vector is not None])
                done += len(rows)
                if progress is not None:
                    progress(done, total)
        return done

    def flush(self) -> None:
        """Nothing waits: a write is durable and in the index when it returns."""
        self._use()


def payload_of(folder: str | os.PathLike[str], asked: str | None) -> Literal["sqlite", "chroma"]:
    """Where the payloads of a folder lie: as asked, or, without, as the folder was made; SQLite for a new one.

    Raises:
        InvalidArgument: ``asked`` is neither ``"sqlite"`` nor ``"chroma"``.
        StoreError: the folder was made the other way, or cannot be read.
    """
    if asked not in ("sqlite", "chroma", None):
        raise InvalidArgument(f"payload is 'sqlite' or 'chroma', not {asked!r:.80}")
    path = Path(folder)
    made: Literal["sqlite", "chroma"] | None = None
    if os.fspath(folder) != MEMORY:
        try:
            if (path / "records.sqlite3").exists():
                made = "sqlite"
            elif (path / DATA).exists():
                made = "chroma"
        except OSError as error:
            raise StoreError(f"the folder {path} cannot be read: {error}") from error
    if asked is not None and made is not None and asked != made:
        raise StoreError(
            f"the store in {path} was made with payload={made!r}; open it so, or choose another folder"
        )
    return made or ("chroma" if asked == "chroma" else "sqlite")


def _codec(dim: int, fingerprint: str, codec_name: str) -> Codec:
    for name, value in (("fingerprint", fingerprint), ("codec_name", codec_name)):
        if not isinstance(value, str) or not value:
            raise InvalidArgument(f"{name} must be a non-empty string, not {value!r:.80}")
    return Codec(check_count("dim", dim, bits=31), fingerprint, codec_name)


def _check_name(collection: object) -> str:
    if not isinstance(collection, str) or not _NAME.fullmatch(collection):
        raise InvalidArgument(
            f"a collection's name has 3 to 202 of the characters a-z A-Z 0-9 . _ -, not {collection!r:.80}"
        )
    return collection
