"""Times of several ways to do the same work, taken in turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Duration:
    """Seconds by the clock, and of the processor, which other programs on the machine lengthen less."""

    clock: float
    processor: float

    def __truediv__(self, count: int) -> Duration:
        return Duration(self.clock / count, self.processor / count)


def medians(works: Mapping[Key, Callable[[], object]], rounds: int = 3) -> dict[Key, Duration]:
    """Median seconds of each work over rounds; a round does every work once.

    One round before them is not counted: it fills caches and loads what is loaded once.
    """
    times: dict[Key, list[Duration]] = {name: [] for name in works}
    for count in range(rounds + 1):
        for name, work in works.items():
            found = once(work)
            if count:
                times[name].append(found)
    return {
        name: Duration(
            statistics.median(each.clock for each in found),
            statistics.median(each.processor for each in found),
        )
        for name, found in times.items()
    }


def once(work: Callable[[], object]) -> Duration:
    """The time of one call."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Duration(time.perf_counter() - clock, time.process_time() - processor)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """How long one call takes, by the clock."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def milliseconds(duration: float) -> str:
    """A duration with three digits that mean something."""
    value = 1000 * duration
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
