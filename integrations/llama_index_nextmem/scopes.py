"""From what a LlamaIndex application hands over to the core's scope."""

from __future__ import annotations

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope


def scope_of(memory: NextMem | Scope | None) -> Scope:
    """A scope as it is; a store's scope ``default``; the default store's where nothing is given."""
    memory = NextMem.open() if memory is None else memory
    found = memory.scope() if isinstance(memory, NextMem) else memory
    if not isinstance(found, Scope):
        raise InvalidArgument(f"memory is a scope, store.scope(name), or a store; not {memory!r:.80}")
    return found
