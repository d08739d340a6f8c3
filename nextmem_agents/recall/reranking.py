"""Reranking by a cross-encoder, or any other model that the user brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import InvalidArgument

Rerank: TypeAlias = Callable[[str, Sequence[str]], npt.ArrayLike]
"""Called with a query and n texts; gives n scores, higher is better. ``lambda query, texts:
cross_encoder.predict([(query, text) for text in texts])`` is one."""


def rerank_scores(rerank: Rerank, query: str, texts: Sequence[str]) -> list[float]:
    """A reranker's scores as numbers of 0..1.

    Where all lie in 0..1 they are taken as they are; else all go through the logistic function, as the logits of a
    cross-encoder are meant to. Either way their order stays.

    Raises:
        InvalidArgument: they are not one finite number per text.

    Examples:
        >>> rerank_scores(lambda query, texts: [0.25, 0.5], "q", ["a", "b"])
        [0.25, 0.5]
        >>> [round(score, 3) for score in rerank_scores(lambda query, texts: [-2, 3.0], "q", ["a", "b"])]
        [0.119, 0.953]
    """
    if not texts:
        return []
    found = rerank(query, texts)
    try:
        given = np.asarray(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"rerank gives one number per text; what it gave is none: {error}") from error
    if len(given) != len(texts) or not np.isfinite(given).all():
        raise InvalidArgument(
            f"rerank gives one finite number per text; for {len(texts)} texts it gave {given.tolist()!r:.200}"
        )
    scores: list[float] = given.tolist()
    if all(0 <= score <= 1 for score in scores):
        return scores
    # By tanh, which does not overflow.
    return [0.5 * (1 + math.tanh(score / 2)) for score in scores]
