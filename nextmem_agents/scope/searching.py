"""Scores of memories for a query: the signals fetched from the store, and fused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import MAXYEAR, datetime
from itertools import islice
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import DamagedRecord, EmptyText, InvalidArgument
from nextmem_agents.quantization import QuantizedLatents
from nextmem_agents.recall.conversation import (
    around,
    beside,
    has_sessions,
    in_session,
    speakers_named,
    spoken_by,
)
from nextmem_agents.recall.lexical import Match, bm25, locate, terms, widen
from nextmem_agents.recall.linking import leading, linked
from nextmem_agents.recall.ranking import LATE_SHARE, WEIGHTS, Score, Signal, fuse
from nextmem_agents.recall.related_words import packaged_related_words
from nextmem_agents.recall.time_expressions import closeness, find_times
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store.checks import check_time
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import Store, Where

Ranking = Literal["hybrid", "latent", "lexical"]
_MIN_CANDIDATES = 256  # memories that are returned, and nearest ones that get a latent score of their own
_LEAST_RELATED = 0.4  # cosine of a related word
_MOST_RELATED = 8  # words related to a term, of those that the scope holds


def score_memories(
    store: Store,
    vault: Vault,
    codec: LatentCodec,
    query: str,
    k: int,
    where: Where | None,
    ranking: Ranking,
    as_of: datetime | None,
    vector: npt.NDArray[np.float32] | None = None,
    weights: Mapping[str, float] = WEIGHTS,
) -> dict[int, Score]:
    """Scores of the best memories by version, best first, at least 256 or 4 k of them; see ``Scope.recall``.

    Args:
        vector: the query's index vector ``[P]``, where the store's were not made by the codec.
        weights: what each signal counts in a hybrid ranking.
    """
    # A word that does not begin a sentence stands behind a space in what was said, and is another token there.
    in_midst = isinstance(query, str) and query[:1].islower()
    chunks = codec.chunk(f" {query}" if in_midst else query)
    if not chunks and not (ranking == "latent" and vector is not None):
        raise EmptyText("the query is empty; give a question or a text")
    n = max(_MIN_CANDIDATES, 4 * k)
    if ranking == "latent":
        return _by_latents(store, vault, codec, chunks, n, where, as_of, vector)
    outline = store.outline(vault.scope, where, as_of)
    asked = list(terms(query))
    if ranking == "lexical":
        scores = bm25(outline, locate(store.postings(vault.scope, asked, where, as_of), outline).values())
        found = np.flatnonzero(scores)
        return fuse(outline.versions[found], {"lexical": scores[found]}, n)
    # Who spoke is a signal of its own: as a word, the rarer speaker's name would outweigh what was asked.
    places, naming = speakers_named(outline, asked)
    told = [term for term in asked if term not in naming] or asked
    matches = _matches(store, vault.scope, outline, told, where, as_of)
    signals = _of_words(outline, list(matches.values()))
    signals["speaker"] = spoken_by(outline, places)
    signals["time"] = _of_time(outline, query, as_of)
    asked_for = codec.encode(chunks) if vector is None else vector
    signals["latent"] = _latent(outline, _nearest(store, vault, codec, asked_for, n, where, as_of))
    if not has_sessions(outline):
        signals["linked"] = _linked(store, vault.scope, outline, signals, weights, matches, where, as_of)
    # A memory that nothing speaks for is not found, however few there are.
    found = np.flatnonzero(
        outline.matches & np.any([values > 0 for values in signals.values() if values is not None], axis=0)
    )
    chosen = {name: None if values is None else values[found] for name, values in signals.items()}
    return fuse(outline.versions[found], chosen, n, weights)


def _matches(
    store: Store,
    scope: str,
    outline: Outline,
    asked: Sequence[str],
    where: Where | None,
    as_of: datetime | None,
) -> dict[str, Match]:
    """Where each term stands, or a word related to it."""
    related = {term: packaged_related_words().to(term, _LEAST_RELATED) for term in asked}
    looked_up = dict.fromkeys([*asked, *(word for words in related.values() for word, _ in words)])
    located = locate(store.postings(scope, list(looked_up), where, as_of), outline)
    return {
        term: widen(
            located[term],
            islice(
                ((located[w], cosine) for w, cosine in related[term] if len(located[w].rows)), _MOST_RELATED
            ),
            len(outline),
        )
        for term in asked
    }


def _of_words(outline: Outline, matches: Sequence[Match]) -> dict[str, Signal | None]:
    lexical = bm25(outline, matches)
    if not has_sessions(outline):
        return {"lexical": lexical}
    return {
        "lexical": lexical,
        "context": beside(outline, lexical),
        "around": around(outline, matches),
        "session": in_session(outline, matches),
    }


def _linked(
    store: Store,
    scope: str,
    outline: Outline,
    signals: Mapping[str, Signal | None],
    weights: Mapping[str, float],
    matches: Mapping[str, Match],
    where: Where | None,
    as_of: datetime | None,
) -> Signal | None:
    """What follows on the best memory; None where it answers every term of the query, or nothing else has its words."""
    shown = np.flatnonzero(outline.matches)
    chosen = {name: None if values is None else values[shown] for name, values in signals.items()}
    best, score = next(iter(fuse(outline.versions[shown], chosen, 1, weights).items()), (0, None))
    if score is None or not score.total:
        return None
    row = int(outline.rows(best))
    if all(row in match.rows for match in matches.values()):
        return None
    counts = leading(store.terms(scope, best), matches, len(outline))
    own = locate(store.postings(scope, list(counts), where, as_of), outline)
    return linked(outline, row, matches.values(), ((own[term], count) for term, count in counts.items()))


def _of_time(outline: Outline, query: str, as_of: datetime | None) -> Signal | None:
    """How near each memory lies to the times that the query names; None without any, or with none near."""
    if not len(outline):
        return None
    years = np.unique(outline.times.astype("datetime64[s]").astype("datetime64[Y]").astype(int)) + 1970
    # The last year has no end that a datetime can tell.
    held = [int(year) for year in years if year < MAXYEAR]
    expressions = find_times(query, check_time("as_of", as_of) if as_of else utc_now(), held)
    if not expressions:
        return None
    near = np.prod([closeness(e.periods, outline.times) for e in expressions], axis=0)
    return near if near.any() else None


def _nearest(
    store: Store,
    vault: Vault,
    codec: LatentCodec,
    asked: Latents | npt.NDArray[np.float32],
    n: int,
    where: Where | None,
    as_of: datetime | None,
) -> dict[int, float]:
    """Similarities of the n memories nearest by index vector, best first.

    Projected vectors only propose: 4,096 dimensions in 1,024 lose up to a tenth of the right answers
    (benchmarks/projection.md), which comparing the stored latents whole brings back.

    Args:
        asked: the query's latents, or its index vector ``[P]`` where the store's were not made by the codec.
    """
    if not isinstance(asked, Latents):
        return dict(store.nearest(vault.scope, asked, n, where, as_of))
    vector = np.asarray(codec.index_vectors(asked).mean(0).numpy(), dtype=np.float32)
    found = dict(store.nearest(vault.scope, vector, n, where, as_of))
    if codec.projects:
        found |= _of_stored(store, vault, codec, asked, found, codec.pooled_similarity)
        found = dict(sorted(found.items(), key=lambda each: -each[1]))
    return found


def _latent(outline: Outline, nearest: Mapping[int, float]) -> Signal:
    """Similarities by row; a memory that was not among the nearest takes the least that was."""
    found = np.full(len(outline), min(nearest.values(), default=0.0))
    versions = np.array(list(nearest), dtype=np.int64)
    known = np.isin(versions, outline.versions)
    found[outline.rows(versions[known])] = np.array(list(nearest.values()))[known]
    return found


def _by_latents(
    store: Store,
    vault: Vault,
    codec: LatentCodec,
    chunks: list[str],
    n: int,
    where: Where | None,
    as_of: datetime | None,
    vector: npt.NDArray[np.float32] | None,
) -> dict[int, Score]:
    asked = codec.encode(chunks) if vector is None else vector
    found = _nearest(store, vault, codec, asked, n, where, as_of)
    if isinstance(asked, Latents) and codec.index_head is not None:
        # The further half is left out: its pooled similarities are on another scale.
        found = dict(islice(found.items(), n // 2))
        late = _of_stored(store, vault, codec, asked, found, codec.late_interaction)
        found |= {v: LATE_SHARE * late[v] + (1 - LATE_SHARE) * found[v] for v in late}
    return fuse(np.array(list(found), dtype=np.int64), {"latent": np.array(list(found.values()))}, n)


def _of_stored(
    store: Store,
    vault: Vault,
    codec: LatentCodec,
    asked: Latents,
    versions: Iterable[int],
    similarity: Callable[[Latents, Latents], Tensor],
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
        payloads = vault.read(record, stored.get(version, []), codec)
        for payload in [] if isinstance(payloads, DamagedRecord) else payloads:
            if payload.latents is not None:
                owners.append(version)
                rows.append(payload.latents)
    if not rows:
        return {}
    found: dict[int, float] = {}
    for version, score in zip(
        owners, similarity(asked, codec.dequantize(rows)).mean(0).tolist(), strict=True
    ):
        found[version] = max(found.get(version, -1.0), score)
    return found


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
