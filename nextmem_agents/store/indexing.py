"""Keeping the Chroma index in step with the records: written behind, mended from them, never trusted over them.

A thread of its own does it, a batch at a time, from the lists in :mod:`nextmem_agents.store.ledger`. Two locks, always
taken in this order: ``work``, for whoever changes the index, and the store's, for the moments in which the records are
read or marked.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from itertools import groupby

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import StoreError
from nextmem_agents.store.chroma import ChromaIndex
from nextmem_agents.store.ledger import Key, Ledger, by_collection, unpack
from nextmem_agents.store.records import Progress
from nextmem_agents.store.sqlite import Database

logger = logging.getLogger(__name__)

FLUSH_AT = 256
"""How many vectors wait before the thread takes them: a Chroma call costs ~30 ms, however few it takes."""

CLOSE_AT = 2_000
"""Up to how many are taken at closing; more are left to the next opening's thread."""


class Indexer:
    """The index of one store.

    Args:
        database: the records; every use of them holds ``mutex``.
        mutex: the store's lock.
        chroma: the index itself.
        dim: D.
        exact_limit: a scope of more vectors gets a collection of its own.
    """

    def __init__(
        self, database: Database, mutex: threading.RLock, chroma: ChromaIndex, dim: int, exact_limit: int
    ) -> None:
        self.work = threading.RLock()
        self._database = database
        self._mutex = mutex
        self._ledger = Ledger(database, mutex, exact_limit)
        self._chroma = chroma
        self._dim = dim
        self._patience = FLUSH_AT
        self._uncounted = 0
        self._ready = False  # compared with the records since it was opened, and in use
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        _running.add(self)

    @property
    def ready(self) -> bool:
        """Whether searches use it just now."""
        return self._ready

    def recover(self) -> None:
        """After opening: let the thread finish what a crash left undone, and rebuild an index whose folder is gone.

        An index that looks whole is left closed until something needs it; it is compared with the records
        then.
        """
        self._chroma.remove_leftovers()
        if self._chroma.lost:
            self._begin_anew()
        self.wrote()

    def wrote(self, changes: int = FLUSH_AT) -> None:
        """After a write of so many changes: wake the thread if enough is waiting, which is counted once in a while."""
        self._uncounted += changes
        if self._uncounted < FLUSH_AT or self._wake.is_set():
            return
        self._uncounted = 0
        if self._ledger.waits(self._patience):
            self._start()

    def flush(self) -> bool:
        """Bring Chroma up to date; False, with a warning in the log, if it could not be done now.

        The store's lock must not be held: the thread may be at work, and needs it.
        """
        if not self._ledger.waits(1) and not (self._chroma.lost and self._ledger.count("vectors")):
            return True
        return self._catch_up()

    def candidates(self, scope: int, vector: npt.NDArray[np.float32], n: int) -> list[int] | None:
        """The versions of about the n nearest chunks of a large scope, by its key; under the store's lock.

        None when the index cannot answer just now, and then the thread sees to it. What waits to be indexed is not
        among them.
        """
        if not self._ready:
            self._start()
            return None
        try:
            ids = self._chroma.query(scope, vector, n)
        except StoreError as error:
            logger.warning("%s; searching the records instead. rebuild() makes the index anew", error)
            return None
        return sorted({int(id_.partition(".")[0]) for id_ in ids})

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the index anew from the records; an interruption is finished by the next flush."""
        with self.work:
            self._ready = False
            with self._mutex:  # no search is under way
                try:
                    self._chroma.close()
                except StoreError as error:
                    logger.warning("%s; rebuilding it all the same", error)
                self._ledger.expect_all()
                self._chroma.wipe()
            self._chroma.connect()
            total, done = self._ledger.count("vectors"), 0
            while taken := self._step():
                done += taken
                if progress is not None:
                    progress(min(done, total), total)
            self._ready, self._patience = True, FLUSH_AT
            return self._chroma.count()

    def make_elsewhere(self) -> None:
        """Make the index anew, if there is one, without a byte of what was deleted; see ``ChromaIndex``."""
        if self._database.path is None:
            self.rebuild()
            return
        with self.work, self._mutex:
            self._ready = False
            try:
                self._chroma.close()
            except StoreError as error:
                logger.warning("%s; making it anew all the same", error)
            made = self._chroma.make_elsewhere(self._database.path)
            self._ledger.taken_all(made)

    def compare(self, progress: Progress | None = None) -> tuple[int, int, int, bool]:
        """Hold every vector of the index against the records, and mend what differs.

        Returns:
            How many the index had lost, had too many, and had wrong, and whether it agrees now.
        """
        lost = wrong = missing = extra = done = 0
        with self.work:
            self._ready = False
            try:
                self._connect()
                missing, extra = self._mend()
                while self._step():
                    pass
                total = self._ledger.count("vectors")
                for rows in self._ledger.all():
                    for collection, part in by_collection(rows):
                        ids, _, values = unpack(part, self._dim)
                        agrees = self._chroma.agrees(collection, ids, values)
                        lost += sum(each is None for each in agrees)
                        wrong += sum(each is False for each in agrees)
                    done += len(rows)
                    if progress is not None:
                        progress(done, total)
                if lost or wrong:
                    logger.warning(
                        "the index has lost %d vectors and has %d wrong; making it anew", lost, wrong
                    )
                    self.rebuild()  # a graph that has lost rows goes on refusing them
                self._ready = True
            except StoreError as error:
                logger.warning("%s; the index could not be compared with the records", error)
                return missing + lost, extra, wrong, False
        return missing + lost, extra, wrong, True

    def stop(self) -> None:
        """End the thread after the batch that it is at; the store's lock must not be held."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def close(self, flush: bool = True) -> None:
        """Stop, take what little may be left, and close; the rest stays on the list.

        Args:
            flush: False where the folder is gone: to write would make it anew.
        """
        self.stop()
        _running.discard(self)
        with self.work:
            if flush and self._chroma.durable and not self._ledger.waits(CLOSE_AT):
                self.flush()
            with self._mutex:
                self._ready = False
                try:
                    self._chroma.close()
                except StoreError as error:
                    logger.warning("%s", error)

    def _start(self) -> None:
        if self._stopping:
            return
        self._wake.set()
        if self._thread is None:
            # A daemon: whoever forgets to close a store must still be able to end.
            self._thread = threading.Thread(target=self._run, name="nextmem-index", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._stopping:
                return
            self._wake.clear()
            self._catch_up(behind=True)

    def _catch_up(self, behind: bool = False) -> bool:
        """Take batch after batch until nothing waits; the thread lets others in between."""
        try:
            while True:
                with self.work:
                    if behind and self._stopping:
                        return False
                    self._open()
                    if not self._step():
                        break
                if behind:
                    time.sleep(0.001)  # a lock that is taken again at once is never anyone else's
        except StoreError as error:
            self._give_up(error)
            return False
        self._patience = FLUSH_AT
        return True

    def _give_up(self, error: StoreError) -> None:
        """Try again later, but not at every write from here on: each attempt may be slow."""
        try:
            waiting = self._ledger.count("vectors WHERE indexed = 0") + self._ledger.count("removals")
        except StoreError:  # the records themselves cannot be read, which their reader will be told
            waiting = self._patience
        self._patience = waiting + FLUSH_AT
        logger.warning("%s; %d changes wait for the index, no record is affected", error, waiting)

    def _open(self) -> None:
        """Open Chroma if need be, and once per opening compare its count with the records'."""
        if self._chroma.connected and self._ready and not self._chroma.lost:
            return
        self._connect()
        if self._chroma.count() != self._ledger.expected():
            self._mend()
        self._ready = True

    def _connect(self) -> None:
        self._ready = False
        if self._chroma.lost and self._chroma.connected:
            with self._mutex:
                self._chroma.close()
        if not self._chroma.connected and self._chroma.connect():
            self._begin_anew()

    def _begin_anew(self) -> None:
        if self._ledger.any("vectors WHERE indexed = 1"):
            logger.warning("the Chroma index was lost; rebuilding it from the records")
            self._ledger.expect_all()

    def _step(self) -> int:
        """Take one batch of removals and one of vectors; how many changes that was, 0 when none was left."""
        removals = self._ledger.removals()
        for collection, part in groupby(removals, key=lambda row: row[0]):
            if self._ledger.is_live(collection):
                self._chroma.delete(
                    collection, [f"{version}.{chunk}" for _, version, n in part for chunk in range(n)]
                )
            else:
                self._chroma.drop(collection)
        if removals:
            self._ledger.removed(removals)
        pending = self._ledger.pending()
        for collection, rows in by_collection(pending):
            self._chroma.upsert(collection, *unpack(rows, self._dim))
        if pending:
            self._ledger.mark([row[1:4] for row in pending], indexed=True)
        return len(removals) + len(pending)

    def _mend(self) -> tuple[int, int]:
        """Make Chroma's ids equal to those of the records; returns how many it lacked and had too many."""
        wanted, waiting, removing = self._ledger.ids()
        missing: list[Key] = []
        n_extra = 0
        for collection in sorted({*wanted, *self._chroma.keys}):
            here, present = wanted.get(collection, {}), self._chroma.ids(collection)
            missing += [key for id_, key in here.items() if id_ not in present and id_ not in waiting]
            extra = sorted(present - here.keys())
            n_extra += sum((collection, id_) not in removing for id_ in extra)
            if extra:
                self._chroma.delete(collection, extra)
        if missing or n_extra:
            logger.warning(
                "the Chroma index lacks %d vectors and has %d too many; mending it", len(missing), n_extra
            )
        if missing:
            self._ledger.mark(missing, indexed=False)
        return len(missing), n_extra


_running: weakref.WeakSet[Indexer] = weakref.WeakSet()


def _stop_all() -> None:
    # A thread that Python's end catches inside Chroma can take the process down with it.
    for indexer in list(_running):
        indexer.stop()


atexit.register(_stop_all)
