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


def products(vectors: Vectors, query: Vectors) -> Vectors:
    """Inner products ``[n]`` of ``[n, D]`` and ``[D]``, computed by the thread that asks.

    BLAS has threads of its own, which spin for a while after each product and take the processors from the decoder that
    comes next: five texts took 2.5 times as long to decode (10,000 memories, 2 cores).
    """
    found: Vectors = np.einsum("nd,d->n", vectors, query)
    return found


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
        scores = products(vectors, query)
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
    """The unit vectors of the scopes read last, by scope key, within a budget of bytes; and their outlines.

    What was appended to a scope is read when the scope is next used: an agent that remembers and recalls in turn must
    not read all of its memory at every turn.
    """

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self.outlines = Outlines()
        self._budget = budget
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._behind: set[int] = set()

    def get(self, scope: int, load: Callable[[int], Block]) -> Block:
        """The scope's block; ``load`` reads what came after a version, all of it after 0."""
        if scope not in self._blocks or scope in self._behind:
            known = self._blocks.get(scope)
            self._blocks[scope] = load(0) if known is None else _extended(known, load)
            self._behind.discard(scope)
            while len(self._blocks) > 1 and sum(v.nbytes for _, v in self._blocks.values()) > self._budget:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(scope)
        return self._blocks[scope]

    def held(self, scope: int) -> int | None:
        """How many vectors of the scope are at hand; None if it was not read."""
        return len(self._blocks[scope][0]) if scope in self._blocks else None

    def appended(self, scope: int) -> None:
        """Note that versions above all others were written to a scope, and no other one changed."""
        if scope in self._blocks:
            self._behind.add(scope)
        self.outlines.appended(scope)

    def drop(self, scope: int) -> None:
        """Forget a scope's block and outline, because what they hold was changed."""
        self.drop_block(scope)
        self.outlines.drop(scope)

    def drop_block(self, scope: int) -> None:
        """Forget a scope's block alone, because the index serves the scope."""
        self._blocks.pop(scope, None)
        self._behind.discard(scope)

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self._behind.clear()
        self.outlines.clear()


def _extended(known: Block, load: Callable[[int], Block]) -> Block:
    versions, vectors = known
    more, their_vectors = load(int(versions[-1]) if len(versions) else 0)
    return np.concatenate([versions, more]), np.concatenate([vectors, their_vectors])
