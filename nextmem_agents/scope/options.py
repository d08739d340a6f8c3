"""The arguments of ``Scope.recall`` as one type, for what hands them on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy.typing as npt
from typing_extensions import TypedDict

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.recall.recency import Recency
from nextmem_agents.recall.reranking import Rerank
from nextmem_agents.recall.trust import Trust
from nextmem_agents.scope.decay import Decay
from nextmem_agents.scope.searching import Ranking


class RecallOptions(TypedDict, total=False):
    """How to recall; see ``Scope.recall`` for each. ``query``, ``k`` and ``where`` are not among them."""

    ranking: Ranking
    as_of: datetime | None
    trusted_only: bool | Trust
    recency: Recency | timedelta | None
    importance: float
    decay: Decay | None
    diversity: float
    neighbours: int
    rerank: Rerank | None
    vector: npt.ArrayLike | None


def check_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options that ``Scope.recall`` takes, as a dictionary of their own.

    Raises:
        InvalidArgument: one of them is unknown.

    Examples:
        >>> check_options({"diversity": 0.3})
        {'diversity': 0.3}
    """
    chosen = dict(options or {})
    if unknown := chosen.keys() - RecallOptions.__annotations__.keys():
        raise InvalidArgument(
            f"recall takes no option {min(map(str, unknown))!r}; it takes {', '.join(RecallOptions.__annotations__)}"
        )
    return chosen
