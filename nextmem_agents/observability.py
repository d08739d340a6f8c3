"""Spans, metrics and log events of the operations on memory: how long, how many, how it ended; never what about.

Each operation gives

- a span ``nextmem.<operation>``, and the metrics ``nextmem.operation.duration`` (seconds, a histogram) and
  ``nextmem.operation.items`` (a counter), where ``opentelemetry-api`` is installed. Without a provider that the
  application has set up, OpenTelemetry drops them;
- a record of the logger ``nextmem_agents.operations``: at DEBUG, for ``forget``, ``clear`` and ``erase`` at INFO, at
  WARNING where it failed. The message is the event's name; ``event``, ``operation``, ``scope_hash``, ``items``,
  ``seconds`` and ``error_type`` are fields of the record (``extra``).

No text, query, id, metadata or error message is among them: messages quote arguments. A scope's name, which often is a
user's id, goes out as a hash; whoever can guess names can still find out which one it is.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram
    from opentelemetry.trace import Tracer

P = ParamSpec("P")
R = TypeVar("R")

# A library leaves it to the application where its records go.
logging.getLogger("nextmem_agents").addHandler(logging.NullHandler())
_log = logging.getLogger("nextmem_agents.operations")
_LEVELS = {"forget": logging.INFO, "clear": logging.INFO, "erase": logging.INFO}

Count = Callable[..., int]
"""Called with the result, and then the arguments of the operation; says how many items it was about."""


def observed(operation: str, items: Count | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Observe a method or function: a span, two metrics and a log event for each call.

    Args:
        operation: the operation's name, such as ``"recall"``.
        items: how many memories or texts a call was about.

    Examples:
        >>> @observed("double", items=lambda result, values: len(values))
        ... def double(values):
        ...     return [2 * value for value in values]
        >>> double([1, 2])
        [2, 4]
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def observing(*args: P.args, **kwargs: P.kwargs) -> R:
            owner = args[0] if args else None
            # A scope has a name; asked of its class, since that has no side effects.
            call = _Call(
                operation, scope_hash(vars(owner).get("name")) if hasattr(type(owner), "recall") else None
            )
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                call.end(None, error)
                raise
            call.end(None if items is None else items(result, *args, **kwargs), None)
            return result

        return observing

    return decorate


def scope_hash(name: object) -> str | None:
    """What stands for a scope in spans and logs.

    Examples:
        >>> len(scope_hash("alice")), scope_hash("alice") == scope_hash("bob"), scope_hash(None)
        (16, False, None)
    """
    if not isinstance(name, str):
        return None
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, person=b"nextmem scope").hexdigest()


class _Call:
    """One operation that is going on."""

    def __init__(self, operation: str, scope: str | None) -> None:
        self._operation = operation
        self._scope = scope
        self._instruments = _instruments()
        self._span: Any = None
        if self._instruments is not None:
            # An exception is recorded by its type alone: its message and traceback can quote what was remembered.
            self._span = self._instruments[0].start_as_current_span(
                f"nextmem.{operation}", record_exception=False, set_status_on_exception=False
            )
            span = self._span.__enter__()
            span.set_attribute("nextmem.operation", operation)
            if scope is not None:
                span.set_attribute("nextmem.scope.hash", scope)
            self._attributes = span
        self._started = time.perf_counter()

    def end(self, items: int | None, error: BaseException | None) -> None:
        seconds = time.perf_counter() - self._started
        kind = None if error is None else type(error).__name__
        if self._instruments is not None:
            self._record(seconds, items, kind)
        level = logging.WARNING if kind else _LEVELS.get(self._operation, logging.DEBUG)
        if _log.isEnabledFor(level):
            fields = {
                "event": f"nextmem.{self._operation}",
                "operation": self._operation,
                "scope_hash": self._scope,
                "items": items,
                "seconds": seconds,
                "error_type": kind,
            }
            _log.log(level, "nextmem.%s", self._operation, extra=fields)

    def _record(self, seconds: float, items: int | None, kind: str | None) -> None:
        from opentelemetry.trace import StatusCode

        assert self._instruments is not None  # noqa: S101 - the caller has looked
        _, duration, counter = self._instruments
        labels = {"nextmem.operation": self._operation} | ({"error.type": kind} if kind else {})
        duration.record(seconds, labels)
        if items is not None:
            self._attributes.set_attribute("nextmem.items", items)
            counter.add(items, labels)
        if kind is not None:
            self._attributes.set_attribute("error.type", kind)
            self._attributes.set_status(StatusCode.ERROR)
        self._span.__exit__(None, None, None)


@functools.lru_cache(maxsize=1)
def _instruments() -> tuple[Tracer, Histogram, Counter] | None:
    """OpenTelemetry's tracer and instruments, which follow a provider that is set later; None without it."""
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        return None
    from nextmem_agents import __version__

    meter = metrics.get_meter("nextmem_agents", __version__)
    return (
        trace.get_tracer("nextmem_agents", __version__),
        meter.create_histogram("nextmem.operation.duration", "s", "Time of an operation on memory"),
        meter.create_counter(
            "nextmem.operation.items", "{item}", "Memories or texts that operations were about"
        ),
    )
