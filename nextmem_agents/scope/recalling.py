"""Recalling from a scope, and answering from what was recalled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from nextmem_agents.asynchronous import async_twin
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.observability import observed
from nextmem_agents.recall.explanation import Explanation
from nextmem_agents.recall.hits import Hit, Hits
from nextmem_agents.recall.policy import Mode
from nextmem_agents.recall.ranking import WEIGHTS, WITH_EMBEDDER, Score
from nextmem_agents.recall.recency import Recency
from nextmem_agents.recall.reranking import Rerank
from nextmem_agents.recall.trust import Trust
from nextmem_agents.scope.answering import Answer, answer_by_codec, answer_from_text, choose_reader
from nextmem_agents.scope.base import ScopeBase
from nextmem_agents.scope.decay import Decay
from nextmem_agents.scope.ordering import Ordering, Shelf, order
from nextmem_agents.scope.searching import Ranking, check_ranking, score_memories
from nextmem_agents.store.records import Where

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nextmem_agents.scope.options import RecallOptions

S = TypeVar("S")
P = ParamSpec("P")
_MAX_NEIGHBOURS = 10
_MAX_K = 2**31
_MORE = 512  # candidates that are looked at beyond the first where too few of those are trusted


def _decoded(method: Callable[Concatenate[S, P], Hits]) -> Callable[Concatenate[S, P], Hits]:
    """Recall with the texts decoded: reading them later would hold up the caller's event loop."""

    @functools.wraps(method)
    def decoded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Hits:
        hits = method(self, *args, **kwargs)
        hits.decode()
        return hits

    return decoded


class Recalling(ScopeBase):
    """The searching methods of a :class:`~nextmem_agents.Scope`."""

    @observed("recall", items=lambda hits, *_, **__: len(hits))
    def recall(
        self,
        query: str,
        k: int = 5,
        *,
        where: Where | None = None,
        ranking: Ranking = "hybrid",
        as_of: datetime | None = None,
        trusted_only: bool | Trust = False,
        recency: Recency | timedelta | None = None,
        importance: float = 0.0,
        decay: Decay | None = None,
        diversity: float = 0.0,
        neighbours: int = 0,
        rerank: Rerank | None = None,
        vector: npt.ArrayLike | None = None,
    ) -> Hits:
        """The k memories that answer the query best, best first; ``hit.explain()`` says why.

        A score is 0..1, higher is better: the relevance that ``ranking`` finds, or ``rerank`` in its place; joined with
        ``recency`` and ``importance``, each by its weight; less what ``decay`` takes. ``diversity`` and ``neighbours``
        change who is among the hits and where, and no score.

        Args:
            query: a question or any text.
            k: at most this many.
            where: only memories that match, e.g. ``{"role": "user", "year": {"$gte": 2020}}``.
            ranking: ``"hybrid"`` (words and related ones, what was said around, session, speaker, time, latents),
                ``"latent"`` (latents alone, the paper's task 3; here by index vectors and late interaction) or
                ``"lexical"`` (BM25). An encrypted scope keeps no words: there hybrid is latent.
            as_of: search what held at this time, with the texts of then; by default, the latest version of all that
                has not ended.
            trusted_only: only what the user or the assistant said, and nothing derived from elsewhere; a
                :class:`~nextmem_agents.Trust` names other roles, and sources.
            recency: how much it counts that a memory happened lately: a half-life, of weight 0.2, or a
                :class:`~nextmem_agents.Recency`.
            importance: how much it counts that a memory is important, 0..1, the weight of its ``importance`` in the
                score; a memory without one counts as 0.5.
            decay: rank down what was not recalled for long; such a recall is itself noted, and strengthens.
            diversity: 0..1: how much a memory is held back by its likeness to those before it (maximal marginal
                relevance with λ = 1 - diversity). 0 is the order of the scores.
            neighbours: so many turns (0..10) before and after each hit in its session follow the k hits, as hits whose
                ``beside`` names the one they stand beside; no score makes them come, and ``where`` holds for them too.
            rerank: a function from the query and the texts of the best max(20, 4 k) memories to their scores, such as
                a cross-encoder's; scores that are not all in 0..1 go through the logistic function.
            vector: what to search for in the index, [P] floats, in place of the query's own; the query may then be
                empty with ``ranking="latent"``.

        Raises:
            EmptyText: the query is empty.
            InvalidArgument: an argument is malformed.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InvalidArgument(f"k must be a whole number of at least 1, not {k!r:.80}")
        k = min(int(k), _MAX_K)
        if (
            isinstance(neighbours, bool)
            or not isinstance(neighbours, int)
            or not 0 <= neighbours <= _MAX_NEIGHBOURS
        ):
            raise InvalidArgument(
                f"neighbours is a whole number from 0 to {_MAX_NEIGHBOURS}, not {neighbours!r:.80}"
            )
        chosen = check_ranking(ranking, self.encrypted)
        ordering = Ordering.of(recency, importance, decay, diversity, rerank, as_of)
        trust = Trust.of(trusted_only)
        wanted = where if trust is None else trust.narrowed(where)
        asked = self._query_vector(query, vector, chosen)
        weights = WEIGHTS if self._embedder is None else WITH_EMBEDDER

        def search(n: int) -> dict[int, Score]:
            return score_memories(
                self._store, self._vault(), self.codec, query, n, wanted, chosen, as_of, asked, weights
            )

        scores = search(k) if trust is None else self._trusted(search, trust, k)
        shelf = Shelf(self._store, self.name, self.codec, self._batch)
        explained = {
            version: Explanation.of(score, place, weights)
            for place, (version, score) in enumerate(islice(scores.items(), ordering.pool(k)), 1)
        }
        ranked = order(ordering, explained, query, k, shelf)
        records = shelf.records(ranked)
        if decay is not None and as_of is None:
            self._store.touch(self.name, list(records))
        beside = self._beside(list(records), neighbours, wanted, as_of)
        if beside:
            near = shelf.records(beside)
            records |= {v: record for v, record in near.items() if trust is None or trust.admits(record)}
        batches = shelf.batches(records)
        hits = []
        for place, version in enumerate((version for version in records if version in batches), 1):
            why = ranked.get(version)
            score = scores.get(version, Score(0.0))
            by = records[beside[version]].id if version in beside else None
            if why is None:
                why = Explanation.of(score, place).stepped("neighbours", place, f"beside {by}")
            hits.append(Hit(records[version], *batches[version], score, why, by))
        return Hits(hits, self.token_counter)

    def _query_vector(
        self, query: str, vector: npt.ArrayLike | None, ranking: Ranking
    ) -> npt.NDArray[np.float32] | None:
        """What the caller or the embedder wants searched; None where that is the query's own index vector."""
        if vector is not None:
            try:
                return np.asarray(vector, dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise InvalidArgument(f"vector is [P] numbers, not {vector!r:.80}") from error
        if self._embedder is None or ranking == "lexical" or not query:
            return None
        return self._embedder.query(query)

    def _trusted(self, search: Callable[[int], dict[int, Score]], trust: Trust, k: int) -> dict[int, Score]:
        """The candidates that are trusted; where others stand in their way, more are asked for."""
        asked, before = k, -1
        while True:
            scores = search(asked)
            records = self._store.records(self.name, list(scores))
            found = {v: s for v, s in scores.items() if v in records and trust.admits(records[v])}
            if len(found) >= k or len(scores) == before:
                return found
            asked, before = 4 * asked + _MORE, len(scores)

    def _beside(self, hits: list[int], n: int, where: Where | None, as_of: datetime | None) -> dict[int, int]:
        """The memories up to n turns before and after each hit, by version, with the hit they stand beside."""
        found: dict[int, int] = {}
        near = {hit: hit for hit in hits}
        for _ in range(n):
            beside = self._store.neighbours(self.name, list(near), where, as_of)
            steps = {version: near[turn] for turn in near for version in beside.get(turn, ())}
            near = {
                version: hit for version, hit in steps.items() if version not in found and version not in hits
            }
            found |= near
        ranks = {hit: i for i, hit in enumerate(hits)}
        return dict(sorted(found.items(), key=lambda item: (ranks[item[1]], item[0])))

    def answer(
        self,
        question: str,
        *,
        model: Callable[[str], str] | None = None,
        k: int = 5,
        mode: Mode = "auto",
        max_tokens: int = 512,
        where: Where | None = None,
        **options: Unpack[RecallOptions],
    ) -> Answer:
        """Answer a question from memory.

        Args:
            question: the question.
            model: any chat model as a function from prompt to reply. Without one the reply is the recalled sentence
                that fits best, word for word, or in ``"inject"`` and ``"mixed"`` that of the codec's own reader.
            k: memories to recall.
            mode: ``"decompress"`` gives memories as text; ``"inject"`` as latents, into the codec's own backbone
                (the paper's layout has one memory; of several the latents follow one another, best first);
                ``"mixed"`` the best half as text and the others as latents; see :meth:`Hits.plan`. ``"auto"`` asks
                the codec's reader where no model is given and the codec says that its reader is good enough
                (``CodecConfig.answers_unasked``), with latents for every memory that they carry.
            max_tokens: budget of the memories in the prompt, text and latents together.
            where: only memories that match.
            **options: how to recall; see :meth:`recall`.

        Raises:
            CannotAnswer: latents are asked for, with a codec that was not trained to answer, or with another model.
            DamagedRecord: a recalled memory's stored bytes no longer check out.
            InvalidArgument: an argument is malformed.
        """
        reader = choose_reader(self.codec, model, mode)
        hits = self.recall(question, k, where=where, **options)
        plan = hits.plan(model=self.codec if reader == "codec" else None, mode=mode, max_tokens=max_tokens)
        if reader == "codec":
            return answer_by_codec(question, hits, plan, self.codec)
        return answer_from_text(question, hits, plan, model, self.token_counter())

    arecall = async_twin(_decoded(recall))
    aanswer = async_twin(answer)
