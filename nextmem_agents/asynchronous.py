"""Async twins, derived from the synchronous methods in this one place."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])


def async_twin(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Awaitable[R]]:
    """The same method in a worker thread, so that the event loop goes on.

    Examples:
        >>> class Greeter:
        ...     def greet(self, name: str) -> str:
        ...         return f"hello {name}"
        ...
        ...     agreet = async_twin(greet)
        >>> asyncio.run(Greeter().agreet("Ann"))
        'hello Ann'
    """

    async def twin(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self, *args, **kwargs)

    return _named(twin, method)


def async_iterator_twin(
    method: Callable[Concatenate[S, P], Iterator[R]],
) -> Callable[Concatenate[S, P], AsyncIterator[R]]:
    """The same iterator, each step taken in a worker thread."""

    async def twin(self: S, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        end = object()
        iterator = await asyncio.to_thread(method, self, *args, **kwargs)
        while (item := await asyncio.to_thread(next, iterator, end)) is not end:
            yield item  # type: ignore[misc]  # not the end mark, hence an R

    return _named(twin, method)


def _named(twin: F, method: Callable[..., object]) -> F:
    functools.update_wrapper(twin, method)
    twin.__doc__ = f"Async twin of ``{method.__name__}``."
    return twin
