"""Async twins, derived from the synchronous methods in this one place."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar, cast

from nextmem_agents.codec.worker import Caller, on_behalf_of

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

# Calls that run at once; they mostly wait, for the codec's worker or the store. More wait for a free thread.
_MAX_CALLS = 64


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="nextmem")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_threads.cache_clear)


def async_twin(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Awaitable[R]]:
    """The same method in a worker thread, so that the event loop goes on.

    What it asks of the codec is batched with what other calls ask at the same time. Cancelled, it does nothing more
    of what has not begun.

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
        return await _in_thread(self, functools.partial(method, self, *args, **kwargs))

    return _named(twin, method)


def async_iterator_twin(
    method: Callable[Concatenate[S, P], Iterator[R]],
) -> Callable[Concatenate[S, P], AsyncIterator[R]]:
    """The same iterator, each step taken in a worker thread."""

    async def twin(self: S, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        end = object()
        iterator = await _in_thread(self, functools.partial(method, self, *args, **kwargs))
        while (item := await _in_thread(self, functools.partial(next, iterator, end))) is not end:
            yield cast(R, item)  # not the end mark

    return _named(twin, method)


async def _in_thread(owner: object, call: Callable[[], R]) -> R:
    caller = Caller(getattr(owner, "name", None) or id(owner))

    def work() -> R:
        with on_behalf_of(caller):
            return call()

    context = contextvars.copy_context()
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads(), context.run, work)
    except asyncio.CancelledError:
        caller.cancelled = True
        raise


def _named(twin: F, method: Callable[..., object]) -> F:
    functools.update_wrapper(twin, method)
    twin.__doc__ = f"Async twin of ``{method.__name__}``."
    return twin
