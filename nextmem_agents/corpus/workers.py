"""Several processes that each load a codec once: work goes out bounded, results come back in order."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from nextmem_agents.errors import NextMemError

T = TypeVar("T")
R = TypeVar("R")

_LOOKAHEAD = (
    2  # pieces of work per worker that are on their way: enough that none waits, and memory stays bounded
)

_work: Callable[[Any], Any] | None = None


class WorkerDied(NextMemError):
    """A worker process ended before its work was done, usually for want of memory."""


def pooled(make: Callable[[int], Callable[[T], R]], work: Iterable[T], workers: int) -> Iterator[R]:
    """``make(n)(piece)`` for every piece of work, in processes of their own; results in the order of the work.

    Args:
        make: called once in each process with its number; can be pickled.
        work: drawn as workers get free, never far ahead of the results that were taken.
        workers: how many processes.

    Raises:
        WorkerDied: a process was killed. What was taken so far stands.
    """
    # Spawned, not forked: neither an open store nor a CUDA context survives a fork.
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(make, numbers))
    waiting: deque[Future[R]] = deque()
    try:
        for piece in work:
            waiting.append(pool.submit(_do, piece))
            while len(waiting) >= _LOOKAHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a worker process ended early, perhaps for want of memory; what was written stands. Run the same "
            "command again with fewer --workers or a smaller --batch-size, and it goes on from there"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        numbers.close()


def _begin(make: Callable[[int], Callable[[Any], Any]], numbers: Any) -> None:
    global _work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = make(numbers.get())


def _do(piece: Any) -> Any:
    assert _work is not None  # noqa: S101 - the pool has begun it
    return _work(piece)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers; they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
