"""The order of what was recalled: what counts beside relevance, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from nextmem_agents.codec.exact import DecompressedText
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DamagedRecord, InvalidArgument
from nextmem_agents.recall.diversity import diversify
from nextmem_agents.recall.explanation import Explanation
from nextmem_agents.recall.hits import DecodeBatch
from nextmem_agents.recall.recency import Recency, check_share
from nextmem_agents.recall.reranking import Rerank, rerank_scores
from nextmem_agents.scope.decay import Decay
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.records import Record, Store

_POOL = 256  # the best so many candidates, or 4 k, can rise by recency, importance and decay
_FEW = 20  # the best so many, or 4 k, are read by a reranker and compared for diversity
UNKNOWN_IMPORTANCE = 0.5

Ranked: TypeAlias = dict[int, Explanation]
"""Explanations by version, best first."""


@dataclass(frozen=True)
class Ordering:
    """What counts beside relevance; see ``Scope.recall`` for each."""

    recency: Recency | None = None
    importance: float = 0.0
    decay: Decay | None = None
    diversity: float = 0.0
    rerank: Rerank | None = None

    @classmethod
    def of(
        cls,
        recency: Recency | timedelta | None,
        importance: float,
        decay: Decay | None,
        diversity: float,
        rerank: Rerank | None,
        as_of: datetime | None,
    ) -> Ordering:
        """From the arguments of ``Scope.recall``.

        Raises:
            InvalidArgument: one of them is malformed.
        """
        if isinstance(recency, timedelta):
            recency = Recency(recency, now=as_of)
        elif isinstance(recency, Recency):
            recency = Recency(recency.half_life, recency.weight, recency.now or as_of)
        elif recency is not None:
            raise InvalidArgument(f"recency is a timedelta or a Recency, not {recency!r:.80}")
        importance = check_share("importance", importance)
        if (recency.weight if recency else 0.0) + importance > 1:
            raise InvalidArgument("the weights of recency and importance add up to at most 1")
        if decay is not None and not isinstance(decay, Decay):
            raise InvalidArgument(f"decay is a Decay, not {decay!r:.80}")
        if rerank is not None and not callable(rerank):
            raise InvalidArgument(f"rerank is a function from query and texts to scores, not {rerank!r:.80}")
        return cls(recency, importance, decay, check_share("diversity", diversity), rerank)

    def pool(self, k: int) -> int:
        """How many of the best candidates can become one of the k best."""
        plain = self == Ordering()
        return k if plain else max(_POOL, 4 * k)


class Shelf:
    """What a scope's store says of candidates, by version; texts that were decoded once are kept.

    Args:
        store: the store.
        scope: the scope's name.
        codec: its codec.
        batch: of records those that are still there, and their payloads to be decoded together.
    """

    def __init__(
        self,
        store: Store,
        scope: str,
        codec: LatentCodec,
        batch: Callable[[Sequence[Record]], tuple[list[Record], DecodeBatch]],
    ):
        self.store = store
        self.scope = scope
        self.codec = codec
        self.batch = batch
        self._decoded: dict[int, tuple[DecodeBatch, int]] = {}

    def records(self, ranked: Mapping[int, object]) -> dict[int, Record]:
        """Their records, in the same order; without those that are gone."""
        found = self.store.records(self.scope, list(ranked))
        return {version: found[version] for version in ranked if version in found}

    def decode(self, records: Mapping[int, Record]) -> dict[int, DecompressedText | DamagedRecord]:
        """Their texts, decoded now."""
        left, batch = self.batch(list(records.values()))
        self._decoded |= {record.version: (batch, i) for i, record in enumerate(left)}
        return {record.version: text for record, text in zip(left, batch.decode(), strict=True)}

    def batches(self, records: Mapping[int, Record]) -> dict[int, tuple[DecodeBatch, int]]:
        """Where each one's text is: the batch, and its place there; one new batch for all that are not decoded."""
        left, batch = self.batch([r for version, r in records.items() if version not in self._decoded])
        return self._decoded | {record.version: (batch, i) for i, record in enumerate(left)}


def order(ordering: Ordering, ranked: Ranked, query: str, k: int, shelf: Shelf) -> Ranked:
    """The k best in their order, with what it did to each.

    First a reranker's scores stand in for relevance, then recency and importance are joined, then decay takes away,
    and last, diversity chooses; each step sees what the one before it left.
    """
    few = max(_FEW, 4 * k)
    if ordering.rerank is not None:
        ranked = _reranked(ordering.rerank, _first(ranked, few), query, shelf)
    ranked = _first(ranked, ordering.pool(k))
    if ordering.recency is not None or ordering.importance:
        ranked = _joined(ordering, ranked, shelf)
    if ordering.decay is not None:
        ranked = _faded(ordering.decay, ranked, shelf)
    if ordering.diversity:
        return _diversified(ordering.diversity, _first(ranked, few), k, shelf)
    return _first(ranked, k)


def _in_order(ranked: Ranked, step: str) -> Ranked:
    """By score, ties to the later memory; with the new places as a step."""
    best = sorted(ranked.items(), key=lambda item: (-item[1].score, -item[0]))
    return {version: why.stepped(step, place) for place, (version, why) in enumerate(best, 1)}


def _first(ranked: Ranked, n: int) -> Ranked:
    return dict(islice(ranked.items(), n))


def _reranked(rerank: Rerank, ranked: Ranked, query: str, shelf: Shelf) -> Ranked:
    texts = {
        version: None if isinstance(text, DamagedRecord) else text.text
        for version, text in shelf.decode(shelf.records(ranked)).items()
    }
    readable = [version for version, text in texts.items() if text is not None]
    scores = rerank_scores(rerank, query, [text for text in texts.values() if text is not None])
    found = dict.fromkeys(texts, 0.0) | dict(zip(readable, scores, strict=True))
    return _in_order(
        {version: ranked[version].replaced("rerank", score) for version, score in found.items()}, "rerank"
    )


def _joined(ordering: Ordering, ranked: Ranked, shelf: Shelf) -> Ranked:
    joined = {}
    for version, record in shelf.records(ranked).items():
        parts = {}
        if ordering.recency is not None:
            value = ordering.recency.value(record.occurred_at or record.created_at)
            parts["recency"] = (value, ordering.recency.weight)
        if ordering.importance:
            value = UNKNOWN_IMPORTANCE if record.importance is None else record.importance
            parts["importance"] = (value, ordering.importance)
        joined[version] = ranked[version].joined(parts)
    return _in_order(joined, "recency and importance")


def _faded(decay: Decay, ranked: Ranked, shelf: Shelf) -> Ranked:
    accesses, now = shelf.store.accesses(shelf.scope, list(ranked)), utc_now()
    faded = {
        version: ranked[version].faded(decay.retained(record, accesses.get(version), now), decay.weight)
        for version, record in shelf.records(ranked).items()
    }
    return _in_order(faded, "decay")


def _diversified(diversity: float, ranked: Ranked, k: int, shelf: Shelf) -> Ranked:
    records, batch = shelf.batch(list(shelf.records(ranked).values()))
    versions = [record.version for record in records]
    vectors = _vectors(batch, len(records), shelf.codec)
    chosen = {}
    scores = [ranked[version].score for version in versions]
    for place, (i, similarity, beside) in enumerate(diversify(scores, vectors, k, diversity), 1):
        other = "" if beside is None else f"{similarity:.2f} like {records[beside].id}"
        chosen[versions[i]] = ranked[versions[i]].stepped("diversity", place, other)
    return chosen


def _vectors(batch: DecodeBatch, n: int, codec: LatentCodec) -> npt.NDArray[np.float32]:
    """One vector of length 1 per memory, [n, D]: the mean of its latents' index vectors; zero for a damaged one."""
    rows = []
    for i in range(n):
        try:
            latents = batch.chunk_latents(i, codec)
        except DamagedRecord:
            rows.append(torch.zeros(codec.index_size))
        else:
            rows.append(F.normalize(codec.index_vectors(latents).mean(0), dim=0))
    return torch.stack(rows).numpy() if rows else np.zeros((0, codec.index_size), np.float32)
