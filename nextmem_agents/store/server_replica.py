"""What a process has seen of a collection: its scopes in SQLite in memory, kept current by the writers' clocks.

The replica has the tables of the embedded layout, without payloads, and is read by the same statements: a filter,
a listing or a search means the same in both layouts because it is the same code.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from nextmem_agents.errors import NewerFormat, StoreError
from nextmem_agents.store import tables
from nextmem_agents.store.exact import Block, Matrices, unit
from nextmem_agents.store.server_connection import Collection, Row
from nextmem_agents.store.server_rows import (
    FORGOTTEN,
    Clock,
    Written,
    all_of,
    chunk_id,
    clocks_of,
    n_chunks_of,
    read_clocks,
    read_forgotten,
    read_written,
    since,
    stamp_of,
    vectors_of,
)
from nextmem_agents.store.sqlite import Database

logger = logging.getLogger(__name__)

MEMORIES = 200_000
"""How many memories a process keeps at hand; beyond, the scopes not used for longest are let go of."""

ATTEMPTS = 5


@dataclass
class Seen:
    """What is known of one scope.

    Attributes:
        clocks: the writers' clocks up to which it is known.
        vectors: whether the vectors were loaded; in large scopes the server searches instead.
        n_memories: about how many memories it holds, old versions included.
        leftovers: rows of forgotten memories that are still there, because whoever forgot them died.
    """

    clocks: dict[int, Clock]
    vectors: bool
    n_memories: int = 0
    leftovers: list[str] = field(default_factory=list)


class _Disorder(Exception):
    """What has come cannot be put on top of what is there; the scope is loaded afresh."""


class Replica:
    """The scopes of a store that this process uses; used under one lock."""

    def __init__(self, dim: int, exact_limit: int, budget: int = MEMORIES) -> None:
        self._dim = dim
        self._exact_limit = exact_limit
        self._budget = budget
        self._database = Database.open(None)
        with self._database.transaction(write=True) as sql:
            sql.execute(
                "CREATE INDEX memories_superseding ON memories (scope, supersedes) WHERE supersedes IS NOT NULL"
            )
        self._matrices = Matrices()
        self.outlines = self._matrices.outlines
        self._scopes: OrderedDict[str, Seen] = OrderedDict()

    @contextmanager
    def noting(self, scope: str) -> Iterator[tuple[sqlite3.Connection, int | None]]:
        """As :meth:`reading`, for what only this process keeps."""
        with self._database.transaction(write=True) as sql:
            yield sql, tables.scope_key(sql, scope)

    @contextmanager
    def reading(self, scope: str) -> Iterator[tuple[sqlite3.Connection, int | None]]:
        """A transaction over what is known, with the scope's key, or None while it is empty."""
        with self._database.transaction() as sql:
            yield sql, tables.scope_key(sql, scope)

    def sync(self, scope: str, collection: Collection) -> Seen:
        """Bring a scope up to date with all that was committed before the call."""
        clocks = read_clocks(collection.rows(clocks_of(scope)))
        seen = self._scopes.get(scope)
        if seen is None or _is_behind(seen.clocks, clocks):
            seen = self._load(scope, collection, clocks)
        else:
            try:
                self._catch_up(scope, collection, seen, clocks)
            except _Disorder:
                seen = self._load(scope, collection, clocks)
        self._scopes.move_to_end(scope)
        self._make_room()
        return seen

    def wrote(self, scope: str, clock: Clock, written: Sequence[Written]) -> None:
        """Take in this process's own put, unless a sync has already fetched it."""
        with self._advancing(scope, clock) as seen:
            if seen is not None:
                self._insert(scope, seen, written, ())

    def forgot(self, scope: str, clock: Clock, versions: Sequence[tuple[int, int]]) -> None:
        """Take in this process's own forgetting, unless a sync has already fetched it."""
        with self._advancing(scope, clock) as seen:
            if seen is not None:
                self._insert(scope, seen, (), versions)

    def settled(self, scope: str, clock: Clock) -> None:
        """Take in that this process has unlisted its old forgettings."""
        seen = self._scopes.get(scope)
        if seen is not None and clock.slot in seen.clocks:
            seen.clocks[clock.slot] = clock

    def matrix(self, sql: sqlite3.Connection, key: int) -> Block:
        """The current versions of a scope with their chunks' unit vectors."""

        def load(after: int) -> Block:
            blocks = list(tables.vectors(sql, key, self._dim, after=after))
            if not blocks:
                return np.empty(0, dtype=np.int64), np.empty((0, self._dim), dtype=np.float32)
            return np.concatenate([b[0] for b in blocks]), unit(np.concatenate([b[1] for b in blocks]))

        return self._matrices.get(key, load)

    def drop(self, scope: str) -> None:
        """Forget what is known of a scope; the next use loads it."""
        self._scopes.pop(scope, None)
        with self._database.transaction(write=True) as sql:
            key = tables.scope_key(sql, scope)
            if key is not None:
                self._matrices.drop(key)
                sql.execute("DELETE FROM memories WHERE scope = ?", (key,))
                sql.execute("DELETE FROM removals")
                sql.execute("DELETE FROM scopes WHERE scope = ?", (key,))

    def close(self) -> None:
        """Let go of everything."""
        self._database.close()

    @contextmanager
    def _advancing(self, scope: str, clock: Clock) -> Iterator[Seen | None]:
        seen = self._scopes.get(scope)
        if seen is not None:
            known = seen.clocks.get(clock.slot)
            if (known.seq if known else 0) >= clock.seq:
                seen = None
        try:
            yield seen
        except _Disorder:
            self.drop(scope)
        else:
            if seen is not None:
                seen.clocks[clock.slot] = clock

    def _load(self, scope: str, collection: Collection, clocks: dict[int, Clock]) -> Seen:
        """Read all of a scope. The ids come in one request, so that no row is skipped while others are written."""
        self.drop(scope)
        ids = collection.ids(all_of(scope))
        vectors = len(ids) <= self._exact_limit
        rows = collection.get(ids, vectors=vectors)
        seen = Seen(clocks, vectors)
        written, forgotten = _read(rows.values(), clocks, vectors, self._dim)
        self._insert(scope, seen, written, forgotten)
        gone = [chunk_id(version, chunk) for version, n in forgotten for chunk in range(n)]
        seen.leftovers = [id_ for id_ in gone if id_ in rows]
        self._scopes[scope] = seen
        return seen

    def _catch_up(self, scope: str, collection: Collection, seen: Seen, clocks: Mapping[int, Clock]) -> None:
        for slot, clock in clocks.items():
            known = seen.clocks.get(slot)
            start = known.seq if known else 0
            if clock.seq > start:
                ids = collection.ids(since(scope, slot, start, clock.seq))
                rows = collection.get(ids, vectors=seen.vectors)
                written, forgotten = _read(rows.values(), clocks, seen.vectors, self._dim)
                self._insert(scope, seen, written, forgotten)
            seen.clocks[slot] = clock

    def _insert(
        self, scope: str, seen: Seen, written: Sequence[Written], forgotten: Iterable[tuple[int, int]]
    ) -> None:
        gone = {version for version, _ in forgotten}
        fresh = sorted((each for each in written if each.version not in gone), key=lambda each: each.version)
        if not fresh and not gone:
            return
        with self._database.transaction(write=True) as sql:
            key = tables.make_scope(sql, scope)
            newest = sql.execute("SELECT MAX(version) FROM memories WHERE scope = ?", (key,)).fetchone()[0]
            appended = not gone and (newest is None or fresh[0].version > newest)
            for each in fresh:
                # A later version of it, or a later memory that took its place, would have to come after it.
                for column in ("id", "supersedes"):
                    later = sql.execute(
                        f"SELECT MAX(version) FROM memories WHERE scope = ? AND {column} = ?",  # noqa: S608 -- constants
                        (key, each.record.id),
                    ).fetchone()[0]
                    if later is not None and later >= each.version:
                        raise _Disorder
                record = each.record
                if not seen.vectors:
                    record = replace(record, vectors=np.zeros((len(record.payloads), 0), dtype=np.float32))
                appended &= not tables.insert(sql, key, record, each.at, version=each.version).replaced
            self._delete(sql, key, gone)
            if appended:
                self._matrices.appended(key)
            else:
                self._matrices.drop(key)
            sql.execute("DELETE FROM removals")  # they are for an index, and the server has its own
        seen.n_memories += len(fresh)

    def _delete(self, sql: sqlite3.Connection, key: int, versions: Iterable[int]) -> None:
        for version in versions:
            row = sql.execute(
                "SELECT id FROM memories WHERE scope = ? AND version = ?", (key, version)
            ).fetchone()
            if row is None:
                continue
            sql.execute("DELETE FROM memories WHERE scope = ? AND version = ?", (key, version))
            left = sql.execute(
                "SELECT MAX(version), TOTAL(current) FROM memories WHERE scope = ? AND id = ?", (key, row[0])
            ).fetchone()
            if left[0] is not None and left[0] not in versions and not left[1]:
                raise _Disorder  # a version that the forgetting process had not seen is the current one now
        sql.execute(
            "DELETE FROM scopes WHERE scope = ?"
            " AND NOT EXISTS (SELECT 1 FROM memories WHERE memories.scope = scopes.scope)",
            (key,),
        )

    def _make_room(self) -> None:
        while len(self._scopes) > 1 and sum(s.n_memories for s in self._scopes.values()) > self._budget:
            self.drop(next(iter(self._scopes)))


def _is_behind(known: Mapping[int, Clock], now: Mapping[int, Clock]) -> bool:
    """Whether a scope must be loaded afresh: a clock is gone, another one, set back, or beyond what is listed."""
    for slot, clock in known.items():
        current = now.get(slot)
        if current is None or current.token != clock.token or current.seq < clock.seq:
            return True
    return any(
        clock.floor > (known[slot].seq if slot in known else 0)
        for slot, clock in now.items()
        if slot not in known or clock.floor != known[slot].floor
    )


def _read(
    rows: Iterable[Row], clocks: Mapping[int, Clock], vectors: bool, dim: int
) -> tuple[list[Written], list[tuple[int, int]]]:
    """The memories and the forgotten versions among rows, as far as they were committed."""
    chunks: dict[int, dict[int, Row]] = {}
    forgotten: list[tuple[int, int]] = []
    for row in rows:
        stamp = stamp_of(row)
        clock = clocks.get(stamp.slot) if stamp else None
        if stamp is None or clock is None or stamp.seq > clock.seq:
            continue  # the first part of a put that was never finished, or not yet
        if row.metadata.get("kind") == FORGOTTEN:
            forgotten += read_forgotten(row)
        else:
            version, chunk = row.metadata.get("version"), row.metadata.get("chunk")
            if isinstance(version, int) and isinstance(chunk, int):
                chunks.setdefault(version, {})[chunk] = row
    written = []
    for version, parts in chunks.items():
        try:
            if 0 not in parts:
                raise StoreError(f"the row {chunk_id(version, 0)!r} is missing")
            n = n_chunks_of(parts[0])
            values = vectors_of(parts, n, dim) if vectors else np.zeros((n, 0), dtype=np.float32)
            written.append(read_written(parts[0], values))
        except NewerFormat:
            raise
        except StoreError as error:
            # One damaged memory must not take the others with it; verify() lists it.
            logger.warning("%s; the memory cannot be read, all others can", error)
    return written, forgotten
