"""What the index has yet to take and to drop, as the records list it.

``vectors.indexed = 0`` marks what Chroma has yet to take, ``removals`` what it has yet to drop. Both are
written in the transaction that changed the records, so that a crash at any moment leaves a list of what is
still to do.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.chroma import SHARED
from nextmem_agents.store.exact import unit
from nextmem_agents.store.halves import from_halves, readable
from nextmem_agents.store.searches import exceeds
from nextmem_agents.store.sqlite import Database

BATCH = 1_000

# Every vector with the collection that it belongs into.
SELECT = (
    "SELECT v.scope * s.own, v.scope, v.version, v.chunk, s.name, v.vector FROM vectors AS v"
    " JOIN scopes AS s ON s.scope = v.scope"
)
Rows = list[tuple[int, int, int, int, str, bytes]]
"""Rows of :data:`SELECT`: collection, scope key, version, chunk, scope and vector."""

Key = tuple[int, int, int]
"""A vector: scope key, version and chunk."""


class Ledger:
    """The lists of one store; each call holds the store's lock for a moment.

    Args:
        database: the records.
        mutex: the store's lock.
        exact_limit: a scope of more vectors gets a collection of its own.
    """

    def __init__(self, database: Database, mutex: threading.RLock, exact_limit: int) -> None:
        self._database = database
        self._mutex = mutex
        self._exact_limit = exact_limit

    def removals(self) -> list[tuple[int, int, int]]:
        """A batch of what is to be dropped: collection, version and its number of chunks."""
        with self._reading() as sql:
            return sql.execute(
                "SELECT collection, version, n_chunks FROM removals ORDER BY collection, version LIMIT ?",
                (BATCH,),
            ).fetchall()

    def removed(self, removals: Sequence[tuple[int, int, int]]) -> None:
        """Strike these off."""
        with self._writing() as sql:
            sql.executemany(
                "DELETE FROM removals WHERE collection = ? AND version = ?", [row[:2] for row in removals]
            )

    def pending(self) -> Rows:
        """A batch of what is to be taken; scopes that have become large are given a collection of their own first."""
        rows = self._pending()
        if self._promote({row[1] for row in rows if row[0] == SHARED}):
            return self._pending()
        return rows

    def _pending(self) -> Rows:
        with self._reading() as sql:
            return sql.execute(
                f"{SELECT} WHERE v.indexed = 0 ORDER BY v.scope, v.version, v.chunk LIMIT ?", (BATCH,)
            ).fetchall()

    def _promote(self, scopes: Iterable[int]) -> bool:
        with self._reading() as sql:
            large = [scope for scope in scopes if exceeds(sql, scope, self._exact_limit)]
        if not large:
            return False
        with self._writing() as sql:
            for scope in large:
                sql.execute(
                    "INSERT OR IGNORE INTO removals (collection, version, n_chunks)"
                    " SELECT ?, version, COUNT(*) FROM vectors WHERE scope = ? AND indexed = 1 GROUP BY version",
                    (SHARED, scope),
                )
                sql.execute("UPDATE vectors SET indexed = 0 WHERE scope = ? AND indexed = 1", (scope,))
                sql.execute("UPDATE scopes SET own = 1 WHERE scope = ?", (scope,))
        return True

    def mark(self, keys: Iterable[Key], indexed: bool) -> None:
        """Note that the index has taken these, or that it has lost them.

        A vector that was forgotten meanwhile is not there to be marked, and is on the list of removals.
        """
        with self._writing() as sql:
            sql.executemany(
                f"UPDATE vectors SET indexed = {int(indexed)} WHERE scope = ? AND version = ? AND chunk = ?",  # noqa: S608
                keys,
            )

    def expect_all(self) -> None:
        """Begin anew, with an empty index."""
        with self._writing() as sql:
            sql.execute("UPDATE vectors SET indexed = 0 WHERE indexed = 1")
            sql.execute("DELETE FROM removals")

    def taken_all(self, made: bool) -> None:
        """An index without anything to drop has taken the place of the former one, or there is none."""
        with self._writing() as sql:
            sql.execute("DELETE FROM removals")
            if made:
                sql.execute("UPDATE vectors SET indexed = 1 WHERE indexed = 0")

    def ids(self) -> tuple[dict[int, dict[str, Key]], set[str], set[tuple[int, str]]]:
        """All ids by collection, those that are to be taken, and, with their collection, those to be dropped."""
        wanted: dict[int, dict[str, Key]] = {}
        waiting = set()
        with self._reading() as sql:
            for collection, scope, version, chunk, indexed in sql.execute(
                "SELECT v.scope * s.own, v.scope, v.version, v.chunk, v.indexed FROM vectors AS v"
                " JOIN scopes AS s ON s.scope = v.scope"
            ):
                id_ = f"{version}.{chunk}"
                wanted.setdefault(collection, {})[id_] = (scope, version, chunk)
                if not indexed:
                    waiting.add(id_)
            removing = {
                (collection, f"{version}.{chunk}")
                for collection, version, n in sql.execute(
                    "SELECT collection, version, n_chunks FROM removals"
                )
                for chunk in range(n)
            }
        return wanted, waiting, removing

    def all(self) -> Iterator[Rows]:
        """Every vector, in batches."""
        after = (-1, -1, -1)
        while True:
            with self._reading() as sql:
                rows = sql.execute(
                    f"{SELECT} WHERE (v.scope, v.version, v.chunk) > (?, ?, ?)"
                    " ORDER BY v.scope, v.version, v.chunk LIMIT ?",
                    (*after, BATCH),
                ).fetchall()
            if not rows:
                return
            yield rows
            after = rows[-1][1:4]

    def is_live(self, collection: int) -> bool:
        """Whether the scope that a collection belongs to still holds anything."""
        return collection == SHARED or self.any(f"scopes WHERE scope = {int(collection)}")

    def expected(self) -> int:
        """How many vectors the index holds if it has lost none."""
        with self._reading() as sql:
            removing = int(sql.execute("SELECT TOTAL(n_chunks) FROM removals").fetchone()[0])
            # The two that an index counts: looking at each vector of a million would hold the lock for a second.
            return _count(sql, "vectors") - _count(sql, "vectors WHERE indexed = 0") + removing

    def waits(self, n: int) -> bool:
        """Whether at least so many changes wait, without counting on beyond that."""
        waiting = 0
        with self._reading() as sql:
            for rows in ("vectors WHERE indexed = 0", "removals"):
                waiting += _count(sql, f"(SELECT 1 FROM {rows} LIMIT {int(n)})")  # noqa: S608 -- an integer
        return waiting >= n

    def count(self, rows: str) -> int:
        """How many rows of a table, with or without a condition, there are."""
        with self._reading() as sql:
            return _count(sql, rows)

    def any(self, rows: str) -> bool:
        """Whether there is one."""
        return self.count(f"(SELECT 1 FROM {rows} LIMIT 1)") == 1  # noqa: S608 -- the callers' constants

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._database.transaction() as sql:
            yield sql

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._database.transaction(write=True) as sql:
            yield sql


def by_collection(rows: Iterable[tuple[int, int, int, int, str, bytes]]) -> Iterator[tuple[int, Rows]]:
    """Rows by the collection that they belong into."""
    for collection, part in groupby(sorted(rows, key=lambda row: row[0]), key=lambda row: row[0]):
        yield collection, [*part]


def unpack(
    rows: Sequence[tuple[int, int, int, int, str, bytes]], dim: int
) -> tuple[list[str], list[str], npt.NDArray[np.float32]]:
    """Ids in Chroma, scopes and unit vectors ``[n, dim]`` of rows of :data:`SELECT`."""
    values = unit(from_halves(b"".join(readable(row[5], dim) for row in rows), dim))
    return [f"{row[2]}.{row[3]}" for row in rows], [row[4] for row in rows], values


def _count(sql: sqlite3.Connection, rows: str) -> int:
    return int(sql.execute(f"SELECT COUNT(*) FROM {rows}").fetchone()[0])  # noqa: S608 -- constants of this module
