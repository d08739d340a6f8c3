"""One thread that does a codec's work for many callers at once: requests that arrive together are one batch.

A batch of 32 costs a few times one row, so that agents who ask at the same time wait less than if each had the model
alone. The async API works this way; a plain call in a thread of its own runs where it is called.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")
R = TypeVar("R")

_IDLE_SECONDS = 10.0  # then the thread ends; the next request starts another


@dataclass(eq=False)
class Caller:
    """On whose behalf work is asked for.

    Attributes:
        name: callers of one name take turns with the others as one, however many requests they have waiting.
        cancelled: set when nobody waits any more: what has not begun is not done.
    """

    name: Hashable
    cancelled: bool = False


_caller: ContextVar[Caller | None] = ContextVar("nextmem_caller", default=None)


@contextmanager
def on_behalf_of(caller: Caller) -> Iterator[None]:
    """Within it, a codec's work goes through its worker."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def current_caller() -> Caller | None:
    """The caller of :func:`on_behalf_of`; None outside of it."""
    return _caller.get()


@dataclass(eq=False)
class _Request:
    """A list of items and where its results go."""

    caller: Caller
    missing: int
    results: list[Any]
    future: Future[list[Any]] = field(default_factory=Future)

    def put(self, begin: int, results: Sequence[Any]) -> None:
        self.results[begin : begin + len(results)] = results
        self.missing -= len(results)
        if not self.missing and not self.future.done():
            self.future.set_result(self.results)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False)
class _Piece:
    """So many of a request's items as fit into a batch."""

    key: Hashable
    work: Callable[[list[Any]], Sequence[Any]]
    items: list[Any]
    begin: int
    request: _Request
    number: int  # in the order of arrival


_workers: WeakSet[CodecWorker] = WeakSet()


def _begin_anew() -> None:
    """In a forked child, which has none of its parent's threads and whose locks one of them may have held."""
    for worker in _workers:
        worker._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class CodecWorker:
    """Batches requests of many threads.

    Args:
        max_batch: items worked on together.
        wait: a batch begins when nobody has come for so many seconds; or, while others keep coming, after a tenth of
            the time that the batch before it took, if that is longer. Who has just been served asks again then, and
            a batch of all of them costs less than two of half of them.
        max_waiting: items that may wait; who asks for more is held until there is room.

    Examples:
        >>> worker = CodecWorker()
        >>> worker.run("double", lambda items: [2 * n for n in items], [1, 2, 3], Caller("alice"))
        [2, 4, 6]
    """

    def __init__(self, max_batch: int = 64, wait: float = 0.003, max_waiting: int = 4096):
        self._max_batch, self._wait, self._max_waiting = max_batch, wait, max_waiting
        self._begin()
        _workers.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        # By the caller's name; the order is whose turn it is.
        self._queues: dict[Hashable, deque[_Piece]] = {}
        self._waiting = 0
        self._count = 0
        self._took = 0.0  # seconds, of the last batch
        self._running = False

    def run(
        self, key: Hashable, work: Callable[[list[T]], Sequence[R]], items: Sequence[T], caller: Caller
    ) -> list[R]:
        """``work(items)``, done together with what others ask for under the same key.

        Args:
            key: what may be merged; requests of equal keys have equal work.
            work: from a list of items to their results, one for each; the result of an item does not depend on the
                others.
            items: the request's own.
            caller: on whose behalf.

        Raises:
            CancelledError: the caller was cancelled before all was done.
            Exception: what ``work`` raises for these items alone.
        """
        if not items:
            return []
        request = _Request(caller, len(items), [None] * len(items))
        # Pieces of half a batch: a long request never fills a batch while others wait.
        size = max(1, self._max_batch // 2)
        with self._changed:
            while self._waiting >= self._max_waiting and not caller.cancelled:
                self._changed.wait(0.1)
            for begin in range(0, len(items), size):
                part = list(items[begin : begin + size])
                self._count += 1
                piece = _Piece(key, work, part, begin, request, self._count)
                self._queues.setdefault(caller.name, deque()).append(piece)
                self._waiting += len(part)
            if not self._running:
                try:
                    threading.Thread(target=self._serve, name="nextmem-codec", daemon=True).start()
                except BaseException as error:
                    request.fail(error)  # so that whoever starts it later leaves its pieces out
                    raise
                self._running = True
            self._changed.notify_all()
        return request.future.result()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._queues and not self._changed.wait_for(lambda: bool(self._queues), _IDLE_SECONDS):
                    self._running = False
                    return
                self._gather()
                batch = self._next_batch()
                self._changed.notify_all()
            began = time.monotonic()
            self._do(batch)
            self._took = time.monotonic() - began

    def _gather(self) -> None:
        """Wait for those who are about to ask, with the lock held."""
        until = time.monotonic() + max(self._wait, self._took / 10)
        while self._waiting < self._max_batch and (left := until - time.monotonic()) > 0:
            seen = self._count
            if not self._changed.wait_for(lambda: self._count != seen, min(self._wait, left)):  # noqa: B023
                return

    def _next_batch(self) -> list[_Piece]:
        """Pieces of one key: that of the piece that waits longest; one from each caller in turn while they fit."""
        key = min((queue[0] for queue in self._queues.values()), key=lambda piece: piece.number).key
        batch: list[_Piece] = []
        room, found = self._max_batch, True
        while found:
            found = False
            for name in list(self._queues):
                queue = self._queues[name]
                if queue[0].key != key or (batch and len(queue[0].items) > room):
                    continue
                piece = queue.popleft()
                self._waiting -= len(piece.items)
                # Whoever had a turn goes behind the others.
                del self._queues[name]
                if queue:
                    self._queues[name] = queue
                if piece.request.caller.cancelled:
                    piece.request.fail(CancelledError())
                elif not piece.request.future.done():
                    batch.append(piece)
                    room -= len(piece.items)
                found = room > 0
        return batch

    def _do(self, batch: list[_Piece]) -> None:
        if not batch:
            return
        try:
            results = list(batch[0].work([item for piece in batch for item in piece.items]))
        except BaseException as error:
            if len(batch) == 1:
                batch[0].request.fail(error)
                return
            # One of them cannot be worked on: each alone, so that it fails and no other.
            for piece in batch:
                self._do([piece])
            return
        begin = 0
        for piece in batch:
            piece.request.put(piece.begin, results[begin : begin + len(piece.items)])
            begin += len(piece.items)
