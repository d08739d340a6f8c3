"""What all handles on one folder share within a process: database, index, lock, and how often it is open."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from nextmem_agents.errors import CodecMismatch, DamagedStore, InvalidArgument, StoreError
from nextmem_agents.store import tables
from nextmem_agents.store.chroma import ChromaIndex
from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.exact import Block, Matrices, Vectors, Versions, rank, unit
from nextmem_agents.store.indexing import FLUSH_AT, Indexer
from nextmem_agents.store.lock import WriterLock
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import Where
from nextmem_agents.store.sqlite import Database, inspect

logger = logging.getLogger(__name__)

MEMORY = ":memory:"
TOUCHES = 256
"""How many recalls are noted before they are written by themselves; any write takes them along."""


@dataclass(frozen=True)
class Codec:
    """What a store must know of the codec that fills it: D, the fingerprint, and a name to say to people."""

    dim: int
    fingerprint: str
    name: str


class Folder:
    """An open store; every use holds ``mutex``, since one connection serves all threads."""

    def __init__(self, path: Path | None, codec: Codec, read_only: bool, exact_limit: int) -> None:
        self.path = path
        self.codec = codec
        self.pid = os.getpid()
        self.users = 0
        self.mutex = threading.RLock()
        self.index: Indexer | None = None
        self._lock: WriterLock | None = None
        self._matrices = Matrices()
        self._seen_changes = 0
        self._touched: dict[int, dict[int, tuple[int, str]]] = {}
        if path is not None:
            _prepare(path, read_only)
            file = path / "records.sqlite3"
            # Before the lock: a refusal must not leave a trace. The index is made after the records, never without.
            if not inspect(file) and (beside := _beside(path)) is not None:
                raise DamagedStore(
                    f"{file} is lost or empty, and only {beside} is left of the store; restore the folder from a "
                    "copy, or delete it to begin anew"
                )
            if not read_only:
                self._lock = WriterLock(path)
                self._lock.acquire()
        try:
            self.database = Database.open(path / "records.sqlite3" if path else None, read_only)
            self._records = None if path is None else _identity(path)
            try:
                self._settle_codec(read_only)
                if not read_only:
                    chroma = ChromaIndex(path / "chroma" if path else None, codec.dim, codec.fingerprint)
                    self.index = Indexer(self.database, self.mutex, chroma, codec.dim, exact_limit)
                    if path is not None:
                        self._finish()
                        self.index.recover()
            except BaseException:
                self.database.close()
                raise
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise

    def close(self) -> None:
        """Flush the index and let go of everything."""
        try:
            if self.index is not None:
                self.index.close(flush=self._is_there())
        finally:
            with self.mutex:
                try:
                    if self.index is not None:
                        self.write_touches()
                finally:
                    self.database.close()
                if self._lock is not None:
                    self._lock.release()

    def check_there(self) -> None:
        """Raise ``StoreError`` if the folder was deleted or replaced: what is written now would be lost."""
        if not self._is_there():
            raise StoreError(
                f"the store in {self.path} was deleted or replaced while it was open; close every handle of it in "
                "this process, and open it again"
            )

    def _is_there(self) -> bool:
        return self.path is None or _identity(self.path) == self._records

    def check_codec(self, codec: Codec) -> None:
        """Raise ``CodecMismatch`` unless the folder belongs to this codec."""
        _compare(self.path, self.codec, codec)

    def wrote(self, scope: int | None, appended: bool = False, changes: int = FLUSH_AT) -> None:
        """After a write to a scope, or to all: let go of what was cached and has changed; let the index follow."""
        if scope is None:
            self._matrices.clear()
        elif appended:
            self._matrices.appended(scope)
        else:
            self._matrices.drop(scope)
        if self.index is not None:
            self.index.wrote(changes)

    def remove_bytes(self) -> None:
        """Leave no byte of a deleted record in any file, and give back the disk that it took.

        In this order, so that nothing is taken over from the one into the other: first the database is written
        anew, then a process that has never seen what was deleted makes the index from it.
        """
        self._matrices.clear()
        self.database.rewrite()
        if self.index is not None:
            self.index.make_elsewhere()
        with self.database.transaction(write=True) as sql:
            sql.execute("DELETE FROM erasures")
        self.database.empty_log()

    def _finish(self) -> None:
        """After opening: remove what has expired, and finish an erasure that was interrupted."""
        with self.database.transaction() as sql:
            expired = sql.execute(
                "SELECT 1 FROM memories WHERE expires_at <= ? LIMIT 1", (moment().now,)
            ).fetchone()
            erasing = sql.execute("SELECT 1 FROM erasures LIMIT 1").fetchone()
        if expired:
            with self.database.transaction(write=True) as sql:
                tables.sweep(sql, moment().now)
        if erasing:
            logger.warning("an erasure of %s was interrupted; finishing it", self.path)
            self.remove_bytes()

    def touch(self, scope: int, versions: Mapping[int, str]) -> None:
        """Note recalls: the time of each, by version."""
        noted = self._touched.setdefault(scope, {})
        for version, last in versions.items():
            noted[version] = (noted.get(version, (0, ""))[0] + 1, last)
        if sum(map(len, self._touched.values())) >= TOUCHES:
            self.write_touches()

    def write_touches(self, sql: sqlite3.Connection | None = None) -> None:
        """Write the recalls that were noted, within a write that is under way or by themselves."""
        if not self._touched:
            return
        if sql is None:
            with self.database.transaction(write=True) as own:
                self.write_touches(own)
            return
        for scope, times in self._touched.items():
            tables.touch(sql, scope, times)
        self._touched = {}

    def noted(self, scope: int) -> Mapping[int, tuple[int, str]]:
        """The recalls of a scope that are not written yet: number and last time by version."""
        return self._touched.get(scope, {})

    def nearest(
        self, name: str, query: Vectors, k: int, where: Where | None, exact_limit: int, at: Moment
    ) -> list[tuple[int, float]]:
        """The k memories of a scope nearest to a unit vector; see ``Store.nearest``."""
        with self.database.transaction() as sql:
            scope = tables.scope_key(sql, name)
            if scope is None:
                return []
            allowed = tables.selection(sql, scope, where, at)
            if at.as_of is not None and allowed is not None:
                past = tables.archived_vectors(sql, scope, self.codec.dim, allowed)
                present = tables.vectors(sql, scope, self.codec.dim, allowed)
                return rank(_units(chain(past, present)), query, k)
            # Counting a large scope's vectors would take longer than its search.
            large = tables.has_own_collection(sql, scope) and self.index is not None and self.index.ready
            held = self._matrices.held(scope)
            if held is not None and large and held > exact_limit:
                self._matrices.drop_block(scope)  # it has grown while the index was not ready
                held = None
            if held is not None or not (large or tables.exceeds(sql, scope, exact_limit)):
                return rank([self._matrix(sql, scope)], query, k, allowed)
            # A filter that leaves few is answered sooner and exactly by looking at just those.
            if self.index is not None and (allowed is None or len(allowed) > exact_limit):
                found = self._indexed(sql, scope, query, k, allowed)
                if len(found) == k:
                    return found
            return rank(_units(tables.vectors(sql, scope, self.codec.dim, allowed)), query, k)

    def sizes(self) -> dict[str, int]:
        """Bytes on disk; see ``Store.sizes``."""
        with self.database.transaction() as sql:
            parts = {part: int(size) for part, size in tables.table_sizes(sql).items()}
        return parts | {
            "records": self.database.size(),
            "chroma": 0 if self.path is None else _bytes_under(self.path / "chroma"),
        }

    def _indexed(
        self, sql: sqlite3.Connection, scope: int, query: Vectors, k: int, allowed: Versions | None
    ) -> list[tuple[int, float]]:
        """What Chroma proposes, and what waits to be indexed, scored anew over all chunks of each memory."""
        if self.index is None or not tables.has_own_collection(sql, scope):
            return []
        share = 1.0 if allowed is None else len(allowed) / tables.count_current(sql, scope)
        proposed = self.index.candidates(scope, query, int(max(64, 4 * k) / share))
        if not proposed:
            return []
        versions = np.union1d(np.array(proposed, dtype=np.int64), tables.pending_versions(sql, scope))
        return rank(_units(tables.vectors(sql, scope, self.codec.dim, versions)), query, k, allowed)

    def outline(self, sql: sqlite3.Connection, key: int | None, where: Where | None, at: Moment) -> Outline:
        """Who said what when in a scope; see ``Store.outline``."""
        self._notice_changes()
        return tables.outline(sql, key, where, at, self._matrices.outlines)

    def _notice_changes(self) -> None:
        changes = self.database.foreign_changes()
        if changes != self._seen_changes:  # another process wrote; only a reader sees that
            self._matrices.clear()
            self._seen_changes = changes

    def _matrix(self, sql: sqlite3.Connection, scope: int) -> Block:
        self._notice_changes()

        def load(after: int) -> Block:
            blocks = list(_units(tables.vectors(sql, scope, self.codec.dim, after=after)))
            if not blocks:
                return np.empty(0, dtype=np.int64), np.empty((0, self.codec.dim), dtype=np.float32)
            return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])

        return self._matrices.get(scope, load)

    def _settle_codec(self, read_only: bool) -> None:
        with self.database.transaction(write=not read_only) as sql:
            found = dict(sql.execute("SELECT key, value FROM settings"))
            if not found:
                if read_only:
                    raise StoreError(
                        f"the store in {self.path} is still being made; open it for writing once"
                    )
                mine = self.codec
                sql.executemany(
                    "INSERT INTO settings (key, value) VALUES (?, ?)",
                    [("dim", str(mine.dim)), ("fingerprint", mine.fingerprint), ("codec", mine.name)],
                )
                return
        try:
            written = Codec(int(found["dim"]), found["fingerprint"], found["codec"])
        except (KeyError, ValueError) as error:
            raise StoreError(f"the settings in {self.path} are damaged: {error!r}") from error
        _compare(self.path, written, self.codec)


def _units(blocks: Iterator[Block]) -> Iterator[Block]:
    return ((versions, unit(values)) for versions, values in blocks)


def _compare(path: Path | None, written: Codec, given: Codec) -> None:
    if (written.dim, written.fingerprint) != (given.dim, given.fingerprint):
        raise CodecMismatch(
            f"the store in {path or MEMORY} was written with the codec {written.name!r} "
            f"(fingerprint {written.fingerprint}, {written.dim} dimensions) and is opened with "
            f"{given.name!r} (fingerprint {given.fingerprint}, {given.dim} dimensions); "
            "open it with the codec that wrote it, and migrate_to() a folder of the other one",
            written.fingerprint,
        )


def _bytes_under(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be writing
            total += file.stat().st_size if file.is_file() else 0
    return total


def _prepare(path: Path, read_only: bool) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is not a folder; a store is a folder")
    if read_only:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)  # memories are private
    except OSError as error:
        raise StoreError(f"the folder {path} cannot be made: {error}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError(f"the folder {path} cannot be written to; choose another, or pass read_only=True")


# The process id is in the key so that a forked child neither uses nor frees what its parent opened.
_open: dict[tuple[int, str, bool], Folder] = {}
_guard = threading.Lock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    # A lock that another thread held at the fork would stay locked in the child.
    os.register_at_fork(after_in_child=_renew_guard)


def _beside(path: Path) -> Path | None:
    """What a store has only after its records."""
    log, index = path / "records.sqlite3-wal", path / "chroma" / "chroma.sqlite3"
    if log.exists() and log.stat().st_size:
        return log
    return index if index.exists() else None


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the records' file from another of its name."""
    try:
        found = (path / "records.sqlite3").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def acquire(folder: str | os.PathLike[str], codec: Codec, read_only: bool, exact_limit: int) -> Folder:
    """The open store of a folder, shared by all who have it open in this process; ``:memory:`` never is."""
    if os.fspath(folder) == MEMORY:
        if read_only:
            raise InvalidArgument("':memory:' has nothing to read yet; read_only=True needs a folder")
        opened = Folder(None, codec, read_only, exact_limit)
        opened.users = 1
        return opened
    path = Path(os.path.realpath(folder))
    key = (os.getpid(), str(path), read_only)
    with _guard:
        shared = _open.get(key)
        if shared is None:
            shared = _open[key] = Folder(path, codec, read_only, exact_limit)
        shared.check_there()
        shared.check_codec(codec)
        shared.users += 1
        return shared


def release(folder: Folder) -> None:
    """Give back what :func:`acquire` gave; the last one closes it."""
    if folder.pid != os.getpid():
        return  # a forked child must not close its parent's files
    with _guard:
        folder.users -= 1
        if folder.users == 0:
            for key in [key for key, shared in _open.items() if shared is folder]:
                del _open[key]
            folder.close()
