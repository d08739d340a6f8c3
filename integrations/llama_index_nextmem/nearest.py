"""Recall by a vector that the caller brings; the core's ``recall`` takes texts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nextmem_agents.recall.hits import Hit, Hits
from nextmem_agents.recall.ranking import fuse
from nextmem_agents.scope import Scope


def recall_nearest(scope: Scope, vector: Sequence[float], k: int, where: Mapping[str, Any] | None) -> Hits:
    """The k memories whose index vectors are nearest to ``vector`` ([P] floats); scores as of ``ranking="latent"``.

    Raises:
        InvalidArgument: the vector is not [P], ``k`` or ``where`` is malformed.
    """
    scores = fuse(latent=dict(scope._store.nearest(scope.name, vector, k, where)))
    records = scope._store.records(scope.name, list(scores))
    found = [(records[version], score) for version, score in scores.items() if version in records]
    batch = scope._batch([record for record, _ in found])
    return Hits(
        [Hit(record, batch, i, score) for i, (record, score) in enumerate(found)], scope.token_counter
    )
