"""A scope: the only place where memories are read and written."""

from nextmem_agents.recall.policy import Mode, Plan
from nextmem_agents.scope.answering import Answer
from nextmem_agents.scope.decay import Decay
from nextmem_agents.scope.options import RecallOptions
from nextmem_agents.scope.scope import Scope
from nextmem_agents.scope.searching import Ranking

__all__ = ["Answer", "Decay", "Mode", "Plan", "Ranking", "RecallOptions", "Scope"]
