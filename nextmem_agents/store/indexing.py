"""Keeping the Chroma index in step with the records: written behind, mended from them, never trusted over them.

``vectors.indexed = 0`` marks what Chroma has yet to take, ``removals`` what it has yet to drop. Both are
written in the transaction that changed the records, so that a crash at any moment leaves a list of what is
still to do.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import StoreError
from nextmem_agents.store.chroma import ChromaIndex
from nextmem_agents.store.exact import unit
from nextmem_agents.store.records import Progress
from nextmem_agents.store.sqlite import Database

logger = logging.getLogger(__name__)

FLUSH_AT = 256
"""How many vectors wait before a write flushes them: a Chroma call costs ~30 ms, however few it takes."""

BATCH = 1_000


class Indexer:
    """The index of one store; used under the store's lock."""

    def __init__(self, database: Database, chroma: ChromaIndex, dim: int) -> None:
        self._database = database
        self._chroma = chroma
        self._dim = dim
        self._patience = FLUSH_AT
        self._compared = False

    def recover(self) -> None:
        """After opening: finish what a crash left undone, and rebuild an index whose folder is gone.

        An index that looks whole is left closed until something needs it; it is compared with the records
        then.
        """
        self._chroma.remove_leftovers()
        self.flush()

    def wrote(self) -> None:
        """After a write: flush if enough is waiting."""
        if self._waiting() >= self._patience:
            self.flush()

    def flush(self) -> bool:
        """Bring Chroma up to date; False, with a warning in the log, if it could not be done now."""
        if self._waiting() or (self._chroma.lost and self._count("vectors")):
            return self._ready()
        return True

    def candidates(self, scope: str, vector: npt.NDArray[np.float32], n: int) -> list[int] | None:
        """The versions of about the n nearest chunks, or None when the index cannot answer."""
        if not self._ready():
            return None
        try:
            ids = self._chroma.query(scope, vector, n)
        except StoreError as error:
            logger.warning("%s; searching the records instead. rebuild() makes the index anew", error)
            return None
        return sorted({int(id_.partition(".")[0]) for id_ in ids})

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the index anew from the records; an interruption is finished by the next flush."""
        try:
            self._chroma.close()
        except StoreError as error:
            logger.warning("%s; rebuilding it all the same", error)
        self._expect_all()
        self._chroma.wipe()
        self._chroma.connect()
        self._drain(progress)
        self._compared, self._patience = True, FLUSH_AT
        return self._chroma.count()

    def make_elsewhere(self) -> None:
        """Make the index anew, if there is one, without a byte of what was deleted; see ``ChromaIndex``."""
        if self._database.path is None:
            self.rebuild()
            return
        try:
            self._chroma.close()
        except StoreError as error:
            logger.warning("%s; making it anew all the same", error)
        made = self._chroma.make_elsewhere(self._database.path)
        with self._database.transaction(write=True) as sql:
            sql.execute("DELETE FROM removals")
            if made:
                sql.execute("UPDATE vectors SET indexed = 1 WHERE indexed = 0")

    def compare(self, progress: Progress | None = None) -> tuple[int, int, int, bool]:
        """Hold every vector of the index against the records, and mend what differs.

        Returns:
            How many the index had lost, had too many, and had wrong, and whether it agrees now.
        """
        if not self._ready(mend=False):
            return 0, 0, 0, False
        lost: list[tuple[int, int, int]] = []
        wrong: list[tuple[int, int, int]] = []
        missing = extra = done = 0
        total = self._count("vectors")
        try:
            missing, extra = self._mend()
            for rows in self._all():
                ids, _, values = unpack(rows, self._dim)
                for row, agrees in zip(rows, self._chroma.agrees(ids, unit(values)), strict=True):
                    if not agrees:
                        (lost if agrees is None else wrong).append(row[:3])
                done += len(rows)
                if progress is not None:
                    progress(done, total)
            if lost or wrong:
                logger.warning(
                    "the index has lost %d vectors and has %d wrong; making it anew", len(lost), len(wrong)
                )
                self.rebuild()  # a graph that has lost rows goes on refusing them
        except StoreError as error:
            logger.warning("%s; the index could not be compared with the records", error)
            return missing + len(lost), extra, len(wrong), False
        return missing + len(lost), extra, len(wrong), True

    def _all(self) -> Iterator[list[tuple[int, int, int, str, bytes]]]:
        after = (-1, -1)
        while True:
            with self._database.transaction() as sql:
                rows = sql.execute(
                    "SELECT v.scope, v.version, v.chunk, s.name, v.vector FROM vectors AS v JOIN scopes AS s"
                    " ON s.scope = v.scope WHERE (v.version, v.chunk) > (?, ?) ORDER BY v.version, v.chunk LIMIT ?",
                    (*after, BATCH),
                ).fetchall()
            if not rows:
                return
            yield rows
            after = rows[-1][1:3]

    def close(self) -> None:
        """Flush and close; what cannot be flushed stays on the list."""
        if self._chroma.durable:
            self.flush()
        try:
            self._chroma.close()
        except StoreError as error:
            logger.warning("%s", error)

    def _ready(self, mend: bool = True) -> bool:
        """Open Chroma if need be, bring it up to date, and, once per opening, compare it with the records."""
        try:
            if not self._chroma.connected:
                self._compared = False
                if self._chroma.connect() and self._count("vectors WHERE indexed = 1"):
                    logger.warning("the Chroma index was lost; rebuilding it from the records")
                    self._expect_all()
            self._drain()
            if mend and not self._compared:
                if self._chroma.count() != self._count("vectors"):
                    self._mend()
                self._compared = True
        except StoreError as error:
            waiting = self._waiting()
            # Not at every write from here on: each attempt may be slow.
            self._patience = waiting + FLUSH_AT
            logger.warning("%s; %d changes wait for the index, no record is affected", error, waiting)
            return False
        self._patience = FLUSH_AT
        return True

    def _drain(self, progress: Progress | None = None) -> None:
        while removed := self._removals():
            self._chroma.delete([f"{version}.{chunk}" for version, n in removed for chunk in range(n)])
            with self._database.transaction(write=True) as sql:
                sql.executemany(
                    "DELETE FROM removals WHERE version = ?", [(version,) for version, _ in removed]
                )
        total, done = self._count("vectors WHERE indexed = 0"), 0
        while pending := self._pending():
            ids, scopes, values = unpack(pending, self._dim)
            self._chroma.upsert(ids, scopes, unit(values))
            with self._database.transaction(write=True) as sql:
                sql.executemany(
                    "UPDATE vectors SET indexed = 1 WHERE scope = ? AND version = ? AND chunk = ?",
                    [row[:3] for row in pending],
                )
            done += len(pending)
            if progress is not None:
                progress(done, total)

    def _mend(self) -> tuple[int, int]:
        """Make Chroma's ids equal to those of the records; returns how many it lacked and had too many."""
        with self._database.transaction() as sql:
            rows = sql.execute("SELECT scope, version, chunk FROM vectors").fetchall()
        wanted = {f"{version}.{chunk}": (scope, version, chunk) for scope, version, chunk in rows}
        present = self._chroma.ids()
        missing = [key for id_, key in wanted.items() if id_ not in present]
        extra = sorted(present - wanted.keys())
        if not missing and not extra:
            return 0, 0
        logger.warning(
            "the Chroma index lacks %d vectors and has %d too many; mending it", len(missing), len(extra)
        )
        if extra:
            self._chroma.delete(extra)
        with self._database.transaction(write=True) as sql:
            sql.executemany(
                "UPDATE vectors SET indexed = 0 WHERE scope = ? AND version = ? AND chunk = ?", missing
            )
        self._drain()
        return len(missing), len(extra)

    def _expect_all(self) -> None:
        with self._database.transaction(write=True) as sql:
            sql.execute("UPDATE vectors SET indexed = 0 WHERE indexed = 1")
            sql.execute("DELETE FROM removals")

    def _removals(self) -> list[tuple[int, int]]:
        with self._database.transaction() as sql:
            return sql.execute("SELECT version, n_chunks FROM removals LIMIT ?", (BATCH,)).fetchall()

    def _pending(self) -> list[tuple[int, int, int, str, bytes]]:
        with self._database.transaction() as sql:
            return sql.execute(
                "SELECT v.scope, v.version, v.chunk, s.name, v.vector FROM vectors AS v JOIN scopes AS s"
                " ON s.scope = v.scope WHERE v.indexed = 0 ORDER BY v.version, v.chunk LIMIT ?",
                (BATCH,),
            ).fetchall()

    def _waiting(self) -> int:
        return self._count("vectors WHERE indexed = 0") + self._count("removals")

    def _count(self, rows: str) -> int:
        with self._database.transaction() as sql:
            return _count(sql, rows)


def unpack(
    rows: Sequence[tuple[int, int, int, str, bytes]], dim: int
) -> tuple[list[str], list[str], npt.NDArray[np.float32]]:
    """Ids in Chroma, scopes and vectors ``[n, dim]`` of rows (scope key, version, chunk, scope, vector)."""
    values = np.frombuffer(b"".join(row[4] for row in rows), dtype="<f4").reshape(-1, dim)
    return [f"{version}.{chunk}" for _, version, chunk, _, _ in rows], [row[3] for row in rows], values


def _count(sql: sqlite3.Connection, rows: str) -> int:
    return int(sql.execute(f"SELECT COUNT(*) FROM {rows}").fetchone()[0])  # noqa: S608 -- constants of this module
