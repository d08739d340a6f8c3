"""From LangChain's ``user_id`` to the core's scope."""

from __future__ import annotations

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope


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
