"""What all handles on one Chroma folder share within a process; a handle on a server has one of its own."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from nextmem_agents.errors import DamagedStore, InvalidArgument, StoreError
from nextmem_agents.store import tables
from nextmem_agents.store.clock import Moment
from nextmem_agents.store.exact import Vectors, Versions, rank, unit
from nextmem_agents.store.folder import Codec
from nextmem_agents.store.lock import WriterLock
from nextmem_agents.store.records import Where
from nextmem_agents.store.rows import batches
from nextmem_agents.store.server_commit import Committer
from nextmem_agents.store.server_connection import Collection, Medium
from nextmem_agents.store.server_replica import Replica, Seen
from nextmem_agents.store.server_rows import CHUNK, all_of, chunk_id, digest
from nextmem_agents.store.server_writers import Writer

Isolation = Literal["shared", "collection"]
"""Where scopes lie: all in one collection, every read filtered; or each in a collection of its own."""

DATA = "collection"
"""Chroma's own folder within a store's folder."""

FEW = 2_000
"""So many memories that a filter leaves in a large scope are scored one by one rather than searched for."""


class Shared:
    """An open medium with its collections, and what this process knows of them.

    Args:
        medium: the server, or Chroma in this process.
        name: the collection; with ``isolation="collection"`` the beginning of each scope's.
        codec: whose memories it holds.
        exact_limit: how many vectors of a scope are searched exactly, in this process.
        lock: held as long as this is open, if given.
    """

    def __init__(
        self,
        medium: Medium,
        name: str,
        codec: Codec,
        isolation: Isolation,
        exact_limit: int,
        lock: WriterLock | None = None,
    ) -> None:
        self.medium = medium
        self.codec = codec
        self.isolation = isolation
        self.pid = os.getpid()
        self.users = 1
        self.mutex = threading.RLock()
        self._name = name
        self._exact_limit = exact_limit
        self._lock = lock
        self.base = medium.collection(name, codec, isolation)
        self._collections: dict[str, Collection] = {}
        self.replica = Replica(codec.dim, exact_limit)
        self.committer = Committer(self.replica, Writer(self.base), self.collection, self.mutex)

    def check(self, codec: Codec, isolation: Isolation, name: str) -> None:
        """Raise unless a second handle wants the same."""
        if name != self._name or (codec, isolation) != (self.codec, self.isolation):
            self.medium.collection(name, codec, isolation)  # says what differs, if the collection is the same
            raise StoreError(f"{self.medium.name} is open with the collection {self._name!r} already")

    def collection(self, scope: str) -> Collection:
        """Where a scope lies."""
        if self.isolation == "shared":
            return self.base
        with self.mutex:
            if scope not in self._collections:
                self._collections[scope] = self.medium.collection(
                    f"{self._name}.{digest(scope)}", self.codec, self.isolation
                )
            return self._collections[scope]

    def collections(self) -> list[Collection]:
        """All of them."""
        if self.isolation == "shared":
            return [self.base]
        return [
            self.medium.collection(name, self.codec, self.isolation)
            for name in self.medium.names(f"{self._name}.")
        ]

    def sync(self, scope: str, writable: bool) -> Seen:
        """Bring what is known of a scope up to date; called with ``mutex`` held."""
        collection = self.collection(scope)
        seen = self.replica.sync(scope, collection)
        if writable and seen.leftovers:
            self.committer.finish(collection, seen)
        return seen

    def nearest(
        self, scope: str, query: Vectors, k: int, where: Where | None, at: Moment, seen: Seen
    ) -> list[tuple[int, float]]:
        """The k memories nearest to a unit vector; called with ``mutex`` held, after a sync."""
        with self.replica.reading(scope) as (sql, key):
            if key is None:
                return []
            if seen.vectors and not tables.exceeds(sql, key, self._exact_limit):
                chosen = tables.selection(sql, key, where, at)
                if at.as_of is None or chosen is None:
                    return rank([self.replica.matrix(sql, key)], query, k, chosen)
                past = tables.archived_vectors(sql, key, self.codec.dim, chosen)
                blocks = chain(tables.vectors(sql, key, self.codec.dim, chosen), past)
                return rank(((versions, unit(values)) for versions, values in blocks), query, k)
            allowed = tables.selection(sql, key, where, at)
            available = tables.count_held(sql, key, at) if allowed is None else len(allowed)
            if available > FEW:
                found = self._search(
                    scope, query, min(k, available), lambda found: _held(sql, key, found, allowed)
                )
                if found is not None:
                    return found
            # Few enough to score each; or the index does not reach all of its vectors.
            if allowed is None:
                allowed = tables.matching_versions(sql, key, where, at)
            records = tables.records(sql, key, allowed.tolist(), at)
        every = [chunk_id(version, chunk) for version, r in records.items() for chunk in range(r.n_chunks)]
        return self._score(self.collection(scope), every, query, k, allowed) if every else []

    def drop(self, scope: str) -> None:
        """Delete the collection of a scope, which has one of its own."""
        with self.mutex:
            self.replica.drop(scope)
            self._collections.pop(scope, None)
            self.committer.restart(scope)
            self.medium.drop(f"{self._name}.{digest(scope)}")

    def bytes_on_disk(self) -> int:
        """Of Chroma's folder; 0 for a server, which does not tell."""
        folder = self.medium.folder
        return 0 if folder is None else sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())

    def close(self) -> None:
        """Give the writer's slot free and let go of everything."""
        try:
            self.committer.close()
        finally:
            with self.mutex:
                try:
                    self.replica.close()
                    if self.medium.ephemeral:
                        # Chroma keeps what is in memory for the life of the process.
                        for name in self.medium.names(self._name):
                            self.medium.drop(name)
                    self.medium.close()
                finally:
                    if self._lock is not None:
                        self._lock.release()

    def _search(
        self, scope: str, query: Vectors, k: int, held: Callable[[list[int]], Versions]
    ) -> list[tuple[int, float]] | None:
        """The k nearest of what Chroma proposes, or None if it does not find so many.

        Args:
            held: of versions, those that may be found.
        """
        collection, n = self.collection(scope), max(64, 4 * k)
        while True:
            ids = collection.nearest(query, n, {"$and": [all_of(scope), {"kind": CHUNK}]})
            versions = sorted({int(id_.partition(".")[0]) for id_ in ids})
            found = self._score(collection, ids, query, k, held(versions))
            if len(found) == k:
                return found
            if len(ids) < n:
                return None
            n *= 4

    def _score(
        self, collection: Collection, ids: list[str], query: Vectors, k: int, allowed: Versions
    ) -> list[tuple[int, float]]:
        by_version: dict[int, list[Vectors]] = {}
        for row in collection.get(ids, vectors=True).values():
            version = row.metadata.get("version")
            if isinstance(version, int) and row.vector is not None:
                by_version.setdefault(version, []).append(row.vector)
        if not by_version:
            return []
        versions = np.array(
            [version for version in sorted(by_version) for _ in by_version[version]], dtype=np.int64
        )
        vectors = unit(np.stack([vector for version in sorted(by_version) for vector in by_version[version]]))
        return rank([(versions, vectors)], query, k, allowed)


def _held(sql: sqlite3.Connection, key: int, versions: list[int], allowed: Versions | None) -> Versions:
    if allowed is not None:
        return np.intersect1d(np.array(versions, dtype=np.int64), allowed)
    current: list[int] = []
    for part in batches(versions):
        rows = sql.execute(
            "SELECT version FROM memories WHERE scope = ? AND current = 1 AND version IN"  # noqa: S608 -- marks
            f" ({','.join('?' * len(part))})",
            (key, *part),
        )
        current += [version for (version,) in rows]
    return np.array(sorted(current), dtype=np.int64)


# The process id is in the key so that a forked child neither uses nor frees what its parent opened.
_open: dict[tuple[int, str], Shared] = {}
_guard = threading.Lock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_guard)


def check_isolation(isolation: object) -> Isolation:
    """Return ``"shared"`` or ``"collection"``, or raise ``InvalidArgument``."""
    for known in get_args(Isolation):
        if isolation == known:
            return known  # type: ignore[no-any-return]
    raise InvalidArgument(
        f"isolation is 'shared' (all scopes in one collection, every read filtered) or 'collection' (one each, "
        f"for few and large tenants), not {isolation!r:.80}"
    )


def acquire_folder(
    folder: Path | None,
    make: Callable[[Medium, WriterLock | None, str | None], Shared],
    same: Callable[[Shared], None],
) -> Shared:
    """The open Chroma folder, shared by all who have it open in this process; a None folder never is.

    Args:
        folder: the store's folder.
        make: builds what is shared from the medium, the lock and, in memory, a name of its own.
        same: raises unless what is open is what a further handle wants.
    """
    if folder is None:
        # Ephemeral clients share one state within a process: only the name keeps two stores apart.
        return make(Medium.embed(None), None, f"nextmem-{uuid.uuid4().hex}")
    path = Path(os.path.realpath(folder))
    key = (os.getpid(), str(path))
    with _guard:
        shared = _open.get(key)
        if shared is not None:
            same(shared)
            shared.users += 1
            return shared
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)  # memories are private
        except OSError as error:
            raise StoreError(f"the folder {path} cannot be made: {error}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise StoreError(f"the folder {path} cannot be written to; choose another")
        _check_whole(path / DATA)
        lock = WriterLock(path)
        lock.acquire()
        try:
            medium = Medium.embed(path / DATA)
            try:
                shared = _open[key] = make(medium, lock, None)
            except BaseException:
                medium.close()
                raise
        except BaseException:
            lock.release()
            raise
        return shared


def _check_whole(data: Path) -> None:
    """Raise ``DamagedStore`` where Chroma's graphs lie without the database that says whose they are."""
    database = data / "chroma.sqlite3"
    if data.exists() and not (database.exists() and database.stat().st_size):
        left = [entry for entry in data.iterdir() if entry != database]
        if left:
            raise DamagedStore(
                f"{database} is lost or empty, and only {left[0]} is left of the store; restore the folder from a "
                "copy, or delete it to begin anew"
            )


def release(shared: Shared) -> None:
    """Give back a handle's share; the last one closes it."""
    if shared.pid != os.getpid():
        return  # a forked child must not close its parent's connections
    with _guard:
        shared.users -= 1
        if shared.users:
            return
        for key in [key for key, each in _open.items() if each is shared]:
            del _open[key]
    shared.close()
