"""How much of the evidence recall finds, beside plain text memories over the same items."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.evaluation import retrieval_controls as controls
from nextmem_agents.evaluation.haystacks import Haystack
from nextmem_agents.evaluation.metrics import evidence_recall, hit_at_k, ndcg, reciprocal_rank
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.ranking import Score
from nextmem_agents.scope import Ranking, Scope
from nextmem_agents.scope.searching import score_memories

MEASURES = ("hit_1", "hit_5", "hit_10", "recall_5", "recall_10", "all_5", "mrr", "ndcg_10")
CONTROLS = ("fts5", "bm25", "bm25+neighbours")
RESAMPLES = 10_000

_ITEM = "item"
_FOR_SESSIONS = 50  # items that are ranked where sessions are asked for


@dataclass(frozen=True, eq=False)
class Searched:
    """What each way of ranking found.

    Attributes:
        values: by ranking, ``[questions, MEASURES]``.
        ms: by ranking, milliseconds a question, texts not decoded; controls have none.
        encode_ms: milliseconds to encode a question, measured in the same run.
        categories, haystacks: ``[questions]``, of each question.
        found: by ranking, what was found for each question, best first.
        parts: for each question, the hybrid ranking's candidates with their scores; empty where not kept.
    """

    values: Mapping[str, npt.NDArray[np.float64]]
    ms: Mapping[str, float]
    encode_ms: float
    categories: npt.NDArray[np.str_]
    haystacks: npt.NDArray[np.str_]
    found: Mapping[str, Sequence[Sequence[str]]]
    parts: Sequence[Sequence[tuple[str, Score]]] = ()


def search(
    haystacks: Sequence[Haystack],
    codec: LatentCodec,
    rankings: Sequence[Ranking] = ("lexical", "latent", "hybrid"),
    keep_parts: bool = False,
    done: Callable[[int], None] | None = None,
) -> Searched:
    """Remember each haystack in a scope of its own, and search it in every way.

    Args:
        haystacks: with questions.
        codec: the codec.
        rankings: of ``Scope.recall``.
        keep_parts: keep the scores of the candidates, for tuning.
        done: called with the number of items of each batch that was remembered.
    """
    found: dict[str, list[list[str]]] = {name: [] for name in (*CONTROLS, *rankings)}
    seconds = dict.fromkeys(rankings, 0.0)
    encoding = 0.0
    parts: list[list[tuple[str, Score]]] = []
    for haystack in haystacks:
        k = _FOR_SESSIONS if haystack.by_session else 10
        for name, control in zip(
            CONTROLS, (controls.fts5, controls.bm25, controls.bm25_with_neighbours), strict=True
        ):
            found[name] += [haystack.ranked(ids)[:10] for ids in control(haystack, k)]
        # A haystack is gone before the next is read: all of LongMemEval need not fit in memory.
        with NextMem.open(":memory:", codec=codec) as memory:
            scope = memory.scope(haystack.name)
            remember(scope, haystack, done)
            for query in haystack.queries:
                started = time.perf_counter()
                asked = codec.encode(codec.chunk(query.text))
                encoding += time.perf_counter() - started
                for ranking in rankings:
                    started = time.perf_counter()
                    hits = scope.recall(query.text, k, ranking=ranking)
                    seconds[ranking] += time.perf_counter() - started
                    found[ranking].append(haystack.ranked(str(hit.metadata[_ITEM]) for hit in hits)[:10])
                if keep_parts:
                    vector = codec.index_vectors(asked).mean(0).numpy()
                    parts.append(_scored(scope, query.text, vector))
    queries = [(haystack, query) for haystack in haystacks for query in haystack.queries]
    values = {
        name: np.array([measure(ids, query.evidence) for ids, (_, query) in zip(rows, queries, strict=True)])
        for name, rows in found.items()
    }
    return Searched(
        values,
        {name: 1000 * total / len(queries) for name, total in seconds.items()},
        1000 * encoding / len(queries),
        np.array([query.category for _, query in queries]),
        np.array([haystack.name for haystack, _ in queries]),
        found,
        parts,
    )


def _scored(scope: Scope, query: str, vector: npt.NDArray[np.float32]) -> list[tuple[str, Score]]:
    """The candidates of a hybrid recall with their scores; no text is read."""
    scores = score_memories(
        scope._store, scope._vault(), scope.codec, query, 10, None, "hybrid", None, vector
    )
    records = scope._store.records(scope.name, list(scores))
    return [(str(records[version].metadata[_ITEM]), score) for version, score in scores.items()]


def remember(scope: Scope, haystack: Haystack, done: Callable[[int], None] | None = None) -> None:
    """Put a haystack into a scope, a hundred items at a time."""
    for start in range(0, len(haystack.items), 100):
        part = haystack.items[start : start + 100]
        scope.remember(
            [item.text for item in part],
            session=[item.session for item in part],
            role=[item.role for item in part],
            occurred_at=[item.occurred_at for item in part],
            metadata=[{_ITEM: item.id} for item in part],
        )
        if done is not None:
            done(len(part))


def measure(found: Sequence[str], relevant: Sequence[str]) -> list[float]:
    """The :data:`MEASURES` of one question: Hit@1, @5 and @10, recall@5 and @10, whether all is among the first 5
    (LongMemEval's recall_all@5), reciprocal rank, and LongMemEval's NDCG@10.
    """
    return [
        *(float(hit_at_k(found, relevant, k)) for k in (1, 5, 10)),
        evidence_recall(found, relevant, 5),
        evidence_recall(found, relevant, 10),
        float(evidence_recall(found, relevant, 5) == 1),
        reciprocal_rank(found[:10], relevant),
        ndcg(found, relevant, 10),
    ]


def table(searched: Searched, chosen: npt.NDArray[np.bool_] | None = None) -> list[dict[str, object]]:
    """A row per ranking: means over all questions, or over the chosen ones ``[questions]``."""
    rows: list[dict[str, object]] = []
    for name, values in searched.values.items():
        kept = values if chosen is None else values[chosen]
        means = dict(zip(MEASURES, kept.mean(axis=0).tolist(), strict=True))
        rows.append({"ranking": name, "questions": len(kept), **means, "ms": searched.ms.get(name)})
    return rows


def by_category(searched: Searched, measure_name: str = "recall_5") -> list[dict[str, object]]:
    """A row per ranking with one measure's mean in each category."""
    column = MEASURES.index(measure_name)
    names = list(dict.fromkeys(searched.categories.tolist()))
    return [
        {"ranking": ranking}
        | {name: float(values[searched.categories == name, column].mean()) for name in names}
        for ranking, values in searched.values.items()
    ]


def bootstrap(
    better: npt.NDArray[np.float64], worse: npt.NDArray[np.float64], seed: int = 0
) -> dict[str, float]:
    """Paired bootstrap over questions (Efron and Tibshirani, 1993, chapter 16): how sure a difference of means is.

    Args:
        better, worse: ``[questions]``, one measure of two rankings.
        seed: of the resampling.

    Returns:
        ``difference`` of the means, the bounds of its 95% interval (``low``, ``high``), and ``p``: how often, of
        10,000 resamples of the questions, the difference is not above zero (one-sided).
    """
    differences = better - worse
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            differences[rng.integers(len(differences), size=(100, len(differences)))].mean(axis=1)
            for _ in range(RESAMPLES // 100)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    p = (1 + int((means <= 0).sum())) / (1 + RESAMPLES)
    return {"difference": float(differences.mean()), "low": low, "high": high, "p": p}
