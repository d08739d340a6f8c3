"""From LangChain's ``user_id`` and ``session_id`` to the core's scope and session, fixed or per call.

Who is served in one call is told by its ``RunnableConfig`` (``config={"configurable": {"user_id": "alice"}}``) or, in a
graph, by its context; never by a prompt's variable or a message, which its writer could choose.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import var_child_runnable_config

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope
from nextmem_agents.store.checks import check_count
from nextmem_agents.store.filters import check_where

# Where LangGraph keeps a run's context; langgraph.runtime.get_runtime reads it there, and raises outside a run.
_RUNTIME = "__pregel_runtime"
_CONFIG_REACHES_ASYNC = sys.version_info >= (3, 11)


def scope_of(memory: NextMem | Scope, user_id: str | None) -> Scope:
    """The scope that an adapter reads and writes: the given one, or the user's in the given store.

    Raises:
        InvalidArgument: ``memory`` is neither; a scope was given with another user's id; or the id is no valid name of
            a scope.
    """
    if not isinstance(memory, NextMem | Scope):
        raise InvalidArgument(
            f"memory is a store, NextMem.open(...), or one of its scopes, not {memory!r:.80}"
        )
    if isinstance(memory, NextMem):
        return memory.scope() if user_id is None else memory.scope(user_id)
    if user_id is not None and user_id != memory.name:
        raise InvalidArgument(
            f"memory is the scope {memory.name!r}, and user_id={user_id!r} names another: "
            "give memory=NextMem.open(...) with user_id, or the scope alone"
        )
    return memory


def scope_of_call(
    memory: NextMem | Scope, user_id: str | None, runtime: Any = None, begun: str | None = None
) -> Scope:
    """The scope of the present call: the adapter's own user, or the one that the call's config or context names.

    Args:
        memory: the adapter's.
        user_id: the adapter's.
        runtime: LangGraph's, where the adapter was handed it.
        begun: the scope that the run began with; a call that resumes it and names nobody goes on with that one.

    Raises:
        InvalidArgument: the call names another user than the adapter serves, or than the run began with, or two; or an
            invalid one.
    """
    called = _named("user_id", runtime)
    own = user_id if isinstance(memory, NextMem) else memory.name
    if begun is not None and any(name not in (None, begun) for name in (own, called)):
        raise InvalidArgument(
            f"this run began for user_id={begun!r}, and is resumed for {called if own is None else own!r}; "
            "resume it for the same"
        )
    if own is None or called is None or called == own:
        return scope_of(memory, user_id if own is not None else begun if called is None else called)
    raise InvalidArgument(
        f"this call is for user_id={called!r}, and the adapter serves {own!r} alone: for users per call, build it with "
        "memory=NextMem.open(...) and without user_id"
    )


def session_of_call(session_id: str | None, runtime: Any = None) -> str | None:
    """The session of the present call: its ``session_id``, else the adapter's, else LangGraph's ``thread_id``.

    Raises:
        InvalidArgument: the call names two, or an empty one.
    """
    called = _named("session_id", runtime, convert=True)
    if called is None:
        called = session_id if session_id is not None else thread_of_call()
    if called == "":
        raise InvalidArgument("session_id must not be empty; leave it out where there is no conversation")
    return called


def thread_of_call() -> str | None:
    """LangGraph's ``thread_id`` of the present call."""
    return _named("thread_id", None, convert=True)


def check_async_call(memory: NextMem | Scope | None, user_id: str | None, runtime: Any = None) -> None:
    """Make sure that an async call's user can be known; to be called in the event loop's thread.

    On Python 3.10 LangChain cannot hand a call's config to async code. A call for some user would then read and write
    the default scope.

    Raises:
        InvalidArgument: so it is here.
    """
    if _CONFIG_REACHES_ASYNC or user_id is not None or not isinstance(memory, NextMem):
        return
    if var_child_runnable_config.get() is None and _named("user_id", runtime) is None:
        raise InvalidArgument(
            "on Python 3.10 an async call's config does not reach the memory, so its user is not known: name the user "
            "in the context, build the adapter with user_id ('default' names the default scope), or use Python 3.11"
        )


@contextmanager
def called_with(config: RunnableConfig | None) -> Iterator[None]:
    """Let what runs inside know the config of the call, which LangChain's own base class does not hand on."""
    # Without a config, what is known of the call stays as it is: on Python 3.10 nothing.
    token = var_child_runnable_config.set(
        var_child_runnable_config.get() if config is None else ensure_config(config)
    )
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def check_recall(k: int, max_tokens: int | None, where: Mapping[str, Any] | None = None) -> None:
    """Find malformed settings of recall when an adapter is built, and not in the middle of a conversation.

    Raises:
        InvalidArgument: one of them is malformed.
    """
    check_count("k", k)
    if max_tokens not in (None, 0):
        check_count("max_tokens", max_tokens)
    check_where(where)


def _named(name: str, runtime: Any, *, convert: bool = False) -> str | None:
    """What the call names; ``convert`` takes what is no string, such as a UUID, for its string."""
    configurable = ensure_config().get("configurable") or {}
    if runtime is None:
        runtime = configurable.get(_RUNTIME)
    context = getattr(runtime, "context", None)
    given = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
    found = [value for value in (given, configurable.get(name)) if value is not None]
    if convert:
        found = [str(value) for value in found]
    if any(value != found[0] for value in found):
        raise InvalidArgument(
            f"the call's context names {name}={found[0]!r}, and its config {found[1]!r}; give one"
        )
    if found and not isinstance(found[0], str):
        raise InvalidArgument(f"{name} must be a string, not {found[0]!r}")
    return found[0] if found else None
