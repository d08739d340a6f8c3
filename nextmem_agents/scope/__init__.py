"""A scope: the only place where memories are read and written."""

from nextmem_agents.scope.answering import Answer, Mode
from nextmem_agents.scope.decay import Decay
from nextmem_agents.scope.scope import Scope
from nextmem_agents.scope.searching import Ranking

__all__ = ["Answer", "Decay", "Mode", "Ranking", "Scope"]
