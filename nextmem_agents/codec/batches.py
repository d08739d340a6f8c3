"""Batches of rows of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
BATCH = 64


def by_length(lengths: Sequence[int], size: int = BATCH) -> Iterator[list[int]]:
    """Row numbers in batches of like length, so that little is padded.

    Examples:
        >>> list(by_length([5, 1, 4], size=2))
        [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def in_batches(lengths: Sequence[int], work: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """``work`` on batches of like length, its results in the original order."""
    results: dict[int, T] = {}
    for rows in by_length(lengths):
        results.update(zip(rows, work(rows), strict=True))
    return [results[i] for i in range(len(lengths))]
