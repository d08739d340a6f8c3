"""Scores of memories for a query: the signals fetched from the store, and fused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Literal

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import DamagedRecord, EmptyText, InvalidArgument
from nextmem_agents.quantization import QuantizedLatents
from nextmem_agents.recall.lexical import bm25, terms
from nextmem_agents.recall.ranking import Score, fuse
from nextmem_agents.scope.decay import Decay
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.records import Store, Where

Ranking = Literal["hybrid", "latent", "lexical"]
_MIN_CANDIDATES = 256  # nearest memories that get a latent score of their own
_MAX_RERANKED = 64  # of those, and of the lexical ones, whose latents are compared with the query's
_MAX_SOURCES = 128  # lexical candidates whose neighbours gain from them


def score_memories(
    store: Store,
    vault: Vault,
    codec: LatentCodec,
    query: str,
    k: int,
    where: Where | None,
    ranking: Ranking,
    as_of: datetime | None,
) -> dict[int, Score]:
    """Scores of all candidates by version, best first; see ``Scope.recall``."""
    scope = vault.scope
    chunks = codec.chunk(query)
    if not chunks:
        raise EmptyText("the query is empty; give a question or a text")
    lexical = context = latent = None
    if ranking != "latent":
        versions, scores = bm25(store.postings(scope, list(terms(query)), where, as_of))
        lexical = dict(zip(versions.tolist(), scores.tolist(), strict=True))
        if ranking == "hybrid":
            context = _context(store, scope, lexical, where, as_of)
    if ranking != "lexical":
        asked = codec.encode(chunks)
        vector = codec.index_vectors(asked).mean(0).numpy()
        latent = dict(store.nearest(scope, vector, max(_MIN_CANDIDATES, 4 * k), where, as_of))
        if codec.index_head is not None:
            n = max(_MAX_RERANKED, 2 * k)
            others = sorted(lexical or {}, key=(lexical or {}).__getitem__, reverse=True)[:n]
            nearest = dict(islice(latent.items(), n))
            latent = nearest | _late_interaction(store, vault, codec, asked, [*nearest, *others])
    return fuse(lexical, context, latent)


def _late_interaction(
    store: Store, vault: Vault, codec: LatentCodec, asked: Latents, versions: Iterable[int]
) -> dict[int, float]:
    """Similarity of the query's latents to the stored ones of each memory: that of its best chunk.

    A memory that is kept literally has none, and is left out: its index vector has to do.
    """
    records = store.records(vault.scope, list(dict.fromkeys(versions)))
    stored = store.payloads(vault.scope, list(records))
    owners: list[int] = []
    rows: list[QuantizedLatents] = []
    for version, record in records.items():
        # A damaged memory is found by its words or not at all; reading its text raises its error.
        payloads = vault.read(record, stored.get(version, []))
        for payload in [] if isinstance(payloads, DamagedRecord) else payloads:
            if payload.latents is not None and payload.codec_id == codec.codec_id:
                owners.append(version)
                rows.append(payload.latents)
    if not rows:
        return {}
    found: dict[int, float] = {}
    for version, score in zip(
        owners, codec.late_interaction(asked, codec.dequantize(rows)).mean(0).tolist(), strict=True
    ):
        found[version] = max(found.get(version, -1.0), score)
    return found


def fade(store: Store, scope: str, scores: Mapping[int, Score], k: int, decay: Decay) -> dict[int, Score]:
    """The best candidates in the order that decay gives them."""
    best = dict(list(scores.items())[: max(_MIN_CANDIDATES, 4 * k)])
    return decay.apply(best, store.records(scope, list(best)), store.accesses(scope, list(best)), utc_now())


def check_ranking(ranking: object, encrypted: bool) -> Ranking:
    """The ranking to use: an encrypted scope has no lexical index, and is searched by its latents alone.

    Raises:
        InvalidArgument: it is unknown, or ``"lexical"`` in an encrypted scope.
    """
    if ranking != "hybrid" and ranking != "latent" and ranking != "lexical":
        raise InvalidArgument(f"ranking must be 'hybrid', 'latent' or 'lexical', not {ranking!r}")
    if encrypted and ranking == "lexical":
        raise InvalidArgument(
            "this scope is encrypted and keeps no lexical index, which would hold its words; use ranking='latent'"
        )
    return "latent" if encrypted else ranking


def _context(
    store: Store, scope: str, lexical: Mapping[int, float], where: Where | None, as_of: datetime | None
) -> dict[int, float]:
    """For each memory beside a lexical candidate, the best score that stands beside it."""
    best = sorted(lexical, key=lexical.__getitem__, reverse=True)[:_MAX_SOURCES]
    context: dict[int, float] = {}
    for version, beside in store.neighbours(scope, best, where, as_of).items():
        for neighbour in beside:
            context[neighbour] = max(context.get(neighbour, 0.0), lexical[version])
    return context
