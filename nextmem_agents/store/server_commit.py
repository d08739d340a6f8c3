"""Writing to a collection: whole or not at all, proven by reading back, many threads' puts in one request."""

from __future__ import annotations

import logging
import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from nextmem_agents.errors import NextMemError, Overtaken, StoreError
from nextmem_agents.store import tables
from nextmem_agents.store.checks import time_to_text
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.exact import unit
from nextmem_agents.store.records import NewRecord
from nextmem_agents.store.rows import batches
from nextmem_agents.store.server_connection import Collection, Row
from nextmem_agents.store.server_replica import Replica, Seen
from nextmem_agents.store.server_rows import (
    FORGOTTEN,
    Clock,
    Stamp,
    Written,
    all_of,
    chunk_id,
    chunk_rows,
    clock_row,
    forgotten_rows,
    read_forgotten,
    since,
    with_end,
)
from nextmem_agents.store.server_writers import Writer

logger = logging.getLogger(__name__)

GROUP = 2_000
"""How many memories of waiting threads go into one commit; a request costs ~30 ms, however few it takes."""

LISTED = 32
"""How many forgettings a writer keeps listed in a scope, for other processes to follow one by one."""


@dataclass(eq=False)
class _Put:
    scope: str
    records: Sequence[NewRecord]
    ids: list[str] = field(default_factory=list)
    done: bool = False
    error: BaseException | None = None


@dataclass(frozen=True)
class Forgotten:
    """How much was forgotten."""

    memories: int
    versions: int
    chunks: int


class Committer:
    """The writes of one process to its collections.

    One write is under way at a time, since a clock must count up in order; puts that arrive meanwhile wait and go
    together in the next. Each returns when its own memories are durable, or raises.

    Args:
        replica: what this process knows, used under ``reading``.
        writer: this process's slot.
        collection_of: where a scope lies.
        reading: the lock of the replica.
    """

    def __init__(
        self,
        replica: Replica,
        writer: Writer,
        collection_of: Callable[[str], Collection],
        reading: threading.RLock,
    ) -> None:
        self._replica = replica
        self._writer = writer
        self._collection_of = collection_of
        self._reading = reading
        self._writing = threading.RLock()
        self._waiting: deque[_Put] = deque()
        self._begun: set[tuple[int, str]] = set()

    def put(self, scope: str, records: Sequence[NewRecord]) -> list[str]:
        """Write checked records, and return their ids; see ``Store.put``."""
        mine = _Put(scope, records)
        self._waiting.append(mine)
        with self._writing:
            # Whoever had the lock before may have written this one along with its own.
            while not mine.done:
                self._put_waiting()
        if mine.error is not None:
            raise mine.error
        return mine.ids

    def forget(
        self, scope: str, select: Callable[[sqlite3.Connection, int | None], Sequence[str]]
    ) -> Forgotten:
        """Delete the memories whose ids ``select`` gives, with all versions; see ``Store.forget``.

        Args:
            select: called on what is known of the scope, up to date, with its key.
        """
        with self._writing:
            collection = self._collection_of(scope)
            slot = self._writer.slot()
            with self._reading:
                clock = self._begin(scope, collection, slot)
                with self._replica.reading(scope) as (sql, key):
                    ids = list(dict.fromkeys(select(sql, key)))
                    versions = [] if key is None else _versions(sql, key, ids)
                    ended = [] if key is None else _ended_by(sql, key, ids)
            if not versions:
                return Forgotten(0, 0, 0)
            self._keep_ends(collection, ended)
            clock = replace(clock, seq=clock.seq + 1)
            rows = forgotten_rows(scope, Stamp(slot, clock.seq), versions)
            try:
                self._send(collection, rows, [clock_row(scope, clock)])
            except BaseException:
                self._writer.abandon()
                raise
            with self._reading:
                self._replica.forgot(scope, clock, versions)
            self._remove(collection, versions)
            self._tidy(scope, collection, clock)
            return Forgotten(len(ids), len(versions), sum(n for _, n in versions))

    def finish(self, collection: Collection, seen: Seen) -> None:
        """Remove what a process forgot and did not live to remove."""
        leftovers, seen.leftovers = seen.leftovers, []
        if leftovers:
            logger.warning(
                "removing %d rows of memories that were forgotten by a process that died", len(leftovers)
            )
            collection.delete(leftovers)

    def restart(self, scope: str) -> None:
        """Take a scope for new: its collection, clocks and all, is gone."""
        self._begun = {(slot, begun) for slot, begun in self._begun if begun != scope}

    def close(self) -> None:
        """Wait for the write under way and give the slot free."""
        with self._writing:
            self._writer.release()

    def _put_waiting(self) -> None:
        group: list[_Put] = []
        while self._waiting and sum(len(put.records) for put in group) < GROUP:
            group.append(self._waiting.popleft())
        collections: dict[int, tuple[Collection, list[_Put]]] = {}
        try:
            for put in group:
                collection = self._collection_of(put.scope)
                collections.setdefault(id(collection), (collection, []))[1].append(put)
            for collection, puts in collections.values():
                self._write(collection, puts)
                for put in puts:
                    put.done = True
        except BaseException as error:
            shown = error if isinstance(error, NextMemError) else StoreError(f"the write failed: {error!r}")
            for put in group:
                if not put.done:
                    put.error, put.done = shown, True
            if not isinstance(error, NextMemError):
                raise

    def _write(self, collection: Collection, puts: Sequence[_Put]) -> None:
        slot = self._writer.slot()
        at = utc_now()
        rows: list[Row] = []
        clocks: dict[str, Clock] = {}
        written: dict[str, list[Written]] = {}
        for scope in dict.fromkeys(put.scope for put in puts):
            ids = {record.id for put in puts if put.scope == scope for record in put.records}
            clocks[scope] = self._make_way(scope, collection, slot, ids, time_to_text(at))
        for put in puts:
            earlier = written.setdefault(put.scope, [])
            try:
                chosen = self._choose(put, [each.record for each in earlier])
            except NextMemError as error:
                put.error = error
                continue
            stamp = Stamp(slot, clocks[put.scope].seq)
            for record in chosen:
                version = self._writer.version(0)
                sent = replace(record, vectors=unit(record.vectors))
                rows += chunk_rows(put.scope, stamp, version, sent, at)
                kept = replace(sent, payloads=[b""] * len(record.payloads))
                earlier.append(Written(version, kept, at, stamp))
        if not rows:
            return
        try:
            self._send(collection, rows, [clock_row(scope, clock) for scope, clock in clocks.items()])
            self._prove(collection, rows)
        except BaseException:
            self._writer.abandon()
            raise
        with self._reading:
            for scope, clock in clocks.items():
                self._replica.wrote(scope, clock, written[scope])

    def _choose(self, put: _Put, earlier: Sequence[NewRecord]) -> list[NewRecord]:
        """The records that are to be written, which repeats that fold are not; their ids go into ``put.ids``."""
        chosen: list[NewRecord] = []
        ids: list[str] = []
        repeats = {
            (record.session, record.digest): record.id for record in earlier if record.digest is not None
        }
        known = {record.id for record in earlier}
        with self._reading, self._replica.reading(put.scope) as (sql, key):
            if overtaken := {record.id for record in put.records if record.former is not None} & known:
                raise Overtaken(f"memory {min(overtaken)!r} was changed by another write; read it again")
            tables.check_former(sql, key, put.scope, put.records)
            for record in put.records:
                other = record.supersedes
                if other is not None and record.updated_at is None and other not in known:
                    tables.current_versions(sql, key, put.scope, [other])
                repeat = None
                if record.fold and record.digest is not None:
                    repeat = repeats.get((record.session, record.digest))
                    if repeat is None and key is not None:
                        repeat = tables.repeat_of(sql, key, record)
                if repeat is None:
                    chosen.append(record)
                    known.add(record.id)
                    if record.digest is not None:
                        repeats.setdefault((record.session, record.digest), record.id)
                ids.append(record.id if repeat is None else repeat)
        put.ids = ids
        return chosen

    def _make_way(self, scope: str, collection: Collection, slot: int, ids: set[str], now: str) -> Clock:
        """The clock of a put of these ids; what has expired under them is forgotten, so that nothing of it stays."""

        def expired(sql: sqlite3.Connection, key: int | None) -> list[str]:
            return [id_ for id_ in expired_ids(sql, key, now) if id_ in ids]

        with self._reading:
            clock = self._begin(scope, collection, slot)
            with self._replica.reading(scope) as (sql, key):
                found = expired(sql, key)
        if found:
            self.forget(scope, expired)
        with self._reading:
            if found:
                clock = self._begin(scope, collection, slot)
            self._writer.version(self._newest(scope))
        return replace(clock, seq=clock.seq + 1)

    def _begin(self, scope: str, collection: Collection, slot: int) -> Clock:
        """This process's clock in a scope that is up to date; at the first write, past what it must not count."""
        seen = self._replica.sync(scope, collection)
        clock = seen.clocks.get(slot) or Clock(slot, 0, uuid.uuid4().hex)
        if (slot, scope) not in self._begun:
            # The slot may have been another's, who died between the requests of a put.
            unfinished = collection.ids(since(scope, slot, clock.seq))
            if unfinished:
                logger.warning("removing %d rows of a put that was never finished", len(unfinished))
                collection.delete(unfinished)
            self._begun.add((slot, scope))
        return clock

    def _send(self, collection: Collection, rows: Sequence[Row], clocks: Sequence[Row]) -> None:
        """Write rows in as few requests as it takes; the last one carries the clocks, which make them count."""
        sent: list[Row] = []
        *parts, last = collection.requests_of([*rows, *clocks])
        if len(last) < len(clocks):  # clocks must not be parted: they commit together
            parts, last = list(collection.requests_of(rows)), list(clocks)
        try:
            for part in parts:
                sent += part
                collection.upsert(part)
            collection.upsert(last)
        except BaseException as error:
            if sent:
                try:
                    collection.delete([row.id for row in sent])
                except StoreError as failure:
                    error.__context__ = failure  # they do not count, and the slot's next owner removes them
            if isinstance(error, StoreError):
                raise StoreError(
                    f"{error}. Nothing of this write counts, unless its last request reached the server and only "
                    "the answer was lost; writing again under the same ids is safe"
                ) from error
            raise

    def _prove(self, collection: Collection, rows: Sequence[Row]) -> None:
        try:
            found = collection.get([row.id for row in rows])
        except StoreError as error:
            logger.warning("a write was acknowledged but could not be read back: %s", error)
            return
        for row in rows:
            there = found.get(row.id)
            if there is None or dict(there.metadata) != dict(row.metadata):
                raise StoreError(
                    f"the server acknowledged the row {row.id!r} and does not give it back as it was written; "
                    "look after the server's disk and version"
                )

    def _remove(self, collection: Collection, versions: Sequence[tuple[int, int]]) -> None:
        ids = [chunk_id(version, chunk) for version, n in versions for chunk in range(n)]
        collection.delete(ids)
        left = collection.get(ids)
        if left:
            raise StoreError(
                f"{len(left)} of {len(ids)} rows are still on the server after they were deleted; they are no "
                "longer read by anyone. Forget something again, or reopen the store, to try once more"
            )

    def _tidy(self, scope: str, collection: Collection, clock: Clock) -> None:
        """Unlist old forgettings, once what they name is gone; who has not followed them loads the scope afresh."""
        mine = {"$and": [all_of(scope), {"kind": FORGOTTEN}, {"slot": clock.slot}]}
        listed = collection.rows(mine)
        if len(listed) <= LISTED:
            return
        self._remove(collection, [pair for row in listed for pair in read_forgotten(row)])
        settled = replace(clock, floor=clock.seq)
        collection.upsert([clock_row(scope, settled)])
        collection.delete([row.id for row in listed])
        with self._reading:
            self._replica.settled(scope, settled)

    def _keep_ends(self, collection: Collection, ended: Sequence[tuple[int, str]]) -> None:
        """Write down when memories ended whose successors are to be forgotten: they do not come back for that."""
        heads = collection.get([chunk_id(version, 0) for version, _ in ended])
        for version, end in ended:
            head = heads.get(chunk_id(version, 0))
            if head is not None:
                collection.amend(head.id, with_end(head, datetime.fromisoformat(end)))

    def _newest(self, scope: str) -> int:
        with self._replica.reading(scope) as (sql, key):
            row = sql.execute("SELECT MAX(version) FROM memories WHERE scope = ?", (key,)).fetchone()
            return int(row[0] or 0)


def expired_ids(sql: sqlite3.Connection, key: int | None, now: str) -> list[str]:
    """The memories of a scope that have expired at ``now`` and are still there."""
    rows = sql.execute(
        "SELECT id FROM memories WHERE scope = ? AND current = 1 AND expires_at IS NOT NULL AND expires_at <= ?",
        (key, now),
    )
    return [id_ for (id_,) in rows]


def _versions(sql: sqlite3.Connection, key: int, ids: Sequence[str]) -> list[tuple[int, int]]:
    """All versions of these memories with their numbers of chunks."""
    found: list[tuple[int, int]] = []
    for part in batches(ids):
        found += sql.execute(
            f"SELECT version, n_chunks FROM memories WHERE scope = ? AND id IN ({','.join('?' * len(part))})"  # noqa: S608 -- marks
            " ORDER BY version",
            (key, *part),
        )
    return found


def _ended_by(sql: sqlite3.Connection, key: int, ids: Sequence[str]) -> list[tuple[int, str]]:
    """The versions, with their ends, that versions of these memories superseded and that stay."""
    going = set(ids)
    found: dict[int, str] = {}
    for part in batches(ids):
        rows = sql.execute(
            "SELECT DISTINCT o.version, o.valid_to, o.id FROM memories AS m JOIN memories AS o"  # noqa: S608 -- marks
            " ON o.scope = m.scope AND o.id = m.supersedes AND o.version < m.version WHERE m.scope = ?"
            f" AND m.id IN ({','.join('?' * len(part))}) AND m.supersedes IS NOT NULL",
            (key, *part),
        )
        found.update((version, end) for version, end, id_ in rows if end is not None and id_ not in going)
    return list(found.items())
