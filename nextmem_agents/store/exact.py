"""Exact nearest-neighbour search by cosine similarity over vectors in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.outline import Outlines

Vectors = npt.NDArray[np.float32]
Versions = npt.NDArray[np.int64]
Block = tuple[Versions, Vectors]
"""Versions ``[n]``, ascending, and their chunks' vectors ``[n, D]``."""

CACHE_BYTES = 256 * 2**20


def unit(vectors: Vectors) -> Vectors:
    """Scale ``[..., D]`` float32 vectors to length 1; a zero vector stays zero."""
    # By the largest entry first, so that squares neither overflow nor vanish.
    peak = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
    scaled = vectors / np.where(peak > 0, peak, np.float32(1))
    norm = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.where(norm > 0, norm, np.float32(1)), dtype=np.float32)


def rank(
    blocks: Iterable[Block], query: Vectors, k: int, allowed: Versions | None = None
) -> list[tuple[int, float]]:
    """The k versions with the most similar chunk, best first, equal ones by version.

    Args:
        blocks: unit vectors; the chunks of one version may lie in two blocks.
        query: ``[D]`` unit vector.
        k: how many versions.
        allowed: the versions to consider, or None for all.
    """
    best_versions, best_scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    for versions, vectors in blocks:
        scores = vectors @ query
        if allowed is not None:
            kept = np.isin(versions, allowed)
            versions, scores = versions[kept], scores[kept]
        versions, scores = _top(*_best_chunks(versions, scores), k)
        both = np.concatenate([best_versions, versions])
        order = np.argsort(both, kind="stable")
        both_scores = np.concatenate([best_scores, scores])
        best_versions, best_scores = _top(*_best_chunks(both[order], both_scores[order]), k)
    # Rounding can take a cosine just past 1.
    return list(zip(best_versions.tolist(), np.clip(best_scores, -1.0, 1.0).tolist(), strict=True))


def _best_chunks(versions: Versions, scores: Vectors) -> tuple[Versions, Vectors]:
    """Of ascending versions, each one once with its highest score."""
    if not len(versions):
        return versions, scores
    starts = np.flatnonzero(np.concatenate([[True], versions[1:] != versions[:-1]]))
    return versions[starts], np.maximum.reduceat(scores, starts)


def _top(versions: Versions, scores: Vectors, k: int) -> tuple[Versions, Vectors]:
    """The k highest scores, best first; of equal ones the lower version."""
    if len(scores) > k:
        kept = scores >= np.partition(scores, -k)[-k]  # more than k where the last place is shared
        versions, scores = versions[kept], scores[kept]
    order = np.lexsort((versions, -scores))[:k]
    return versions[order], scores[order]


class Matrices:
    """The unit vectors of the scopes read last, by scope key, within a budget of bytes; and their outlines."""

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self.outlines = Outlines()
        self._budget = budget
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    def get(self, scope: int, load: Callable[[], Block]) -> Block:
        """The scope's block, loaded if it is not at hand."""
        if scope not in self._blocks:
            self._blocks[scope] = load()
            while len(self._blocks) > 1 and sum(v.nbytes for _, v in self._blocks.values()) > self._budget:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(scope)
        return self._blocks[scope]

    def holds(self, scope: int) -> bool:
        """Whether the scope's block is at hand."""
        return scope in self._blocks

    def drop(self, scope: int) -> None:
        """Forget a scope's block, because the scope was written to."""
        self._blocks.pop(scope, None)
        self.outlines.drop(scope)

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self.outlines.clear()
