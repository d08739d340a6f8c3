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

# Where LangGraph keeps a run's context; langgraph.runtime.get_runtime reads it there, and raises outside a run.
_RUNTIME = "__pregel_runtime"
_CONFIG_REACHES_ASYNC = sys.version_info >= (3, 11)


def scope_of(memory: NextMem | Scope, user_id: str | None) -> Scope:
    """The scope that an adapter reads and writes: the given one, or the user's in the given store.

    Raises:
        InvalidArgument: a scope was given with another user's id, or the id is no valid name of a scope.
    """
    if isinstance(memory, NextMem):
        return memory.scope() if user_id is None else memory.scope(user_id)
    if user_id is not None and user_id != memory.name:
        raise InvalidArgument(
            f"memory is the scope {memory.name!r}, and user_id={user_id!r} names another: "
            "give memory=NextMem.open(...) with user_id, or the scope alone"
        )
    return memory


def scope_of_call(memory: NextMem | Scope, user_id: str | None, runtime: Any = None) -> Scope:
    """The scope of the present call: the adapter's own user, or the one that the call's config or context names.

    Args:
        memory: the adapter's.
        user_id: the adapter's.
        runtime: LangGraph's, where the adapter was handed it.

    Raises:
        InvalidArgument: the call names another user than the adapter serves, or two; or an invalid one.
    """
    called = _named("user_id", runtime)
    own = user_id if isinstance(memory, NextMem) else memory.name
    if own is None or called is None or called == own:
        return scope_of(memory, called if own is None else user_id)
    raise InvalidArgument(
        f"this call is for user_id={called!r}, and the adapter serves {own!r} alone: for users per call, build it with "
        "memory=NextMem.open(...) and without user_id"
    )


def session_of_call(session_id: str | None, runtime: Any = None) -> str | None:
    """The session of the present call: its ``session_id``, else the adapter's, else LangGraph's ``thread_id``."""
    called = _named("session_id", runtime)
    if called is not None:
        return called
    return session_id if session_id is not None else _named("thread_id", None)


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


def _named(name: str, runtime: Any) -> str | None:
    configurable = ensure_config().get("configurable") or {}
    if runtime is None:
        runtime = configurable.get(_RUNTIME)
    context = getattr(runtime, "context", None)
    given = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
    found = [value for value in (given, configurable.get(name)) if value is not None]
    if any(value != found[0] for value in found):
        raise InvalidArgument(
            f"the call's context names {name}={found[0]!r}, and its config {found[1]!r}; give one"
        )
    if found and not isinstance(found[0], str):
        raise InvalidArgument(f"{name} must be a string, not {found[0]!r}")
    return found[0] if found else None
