"""Diversity: not the same thing five times (maximal marginal relevance)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.exact import products


def diversify(
    scores: Sequence[float], vectors: npt.NDArray[np.float32], k: int, diversity: float
) -> list[tuple[int, float, int | None]]:
    """Choose k of n candidates, each the best by (1 - diversity) × score - diversity × similarity.

    The similarity is that to the most similar one chosen before (Carbonell & Goldstein, "The use of MMR",
    SIGIR 1998; their λ is 1 - diversity). The first is always the one of the best score.

    Args:
        scores: [n], 0..1, best first.
        vectors: [n, D], of length 1.
        k: at most so many are chosen.
        diversity: 0 (the order of the scores) to 1 (as unlike each other as can be).

    Returns:
        Index, similarity to the most similar one before it (0..1), and that one's index, of each in its order.

    Examples:
        >>> same, other = [1.0, 0.0], [0.0, 1.0]
        >>> [i for i, _, _ in diversify([0.9, 0.8, 0.5], np.array([same, same, other], np.float32), 2, 0.5)]
        [0, 2]
    """
    relevance = np.asarray(scores, dtype=np.float64)
    nearest = np.zeros(len(relevance))
    beside: list[int | None] = [None] * len(relevance)
    left = np.ones(len(relevance), dtype=bool)
    chosen: list[tuple[int, float, int | None]] = []
    while len(chosen) < min(k, len(relevance)):
        worth = relevance if not chosen else (1 - diversity) * relevance - diversity * nearest
        i = int(np.argmax(np.where(left, worth, -np.inf)))
        chosen.append((i, float(nearest[i]), beside[i]))
        left[i] = False
        similarity = np.clip(products(vectors, vectors[i]), 0.0, 1.0)
        for j in np.flatnonzero(similarity > nearest):
            beside[j] = i
        nearest = np.maximum(nearest, similarity)
    return chosen
