"""Tuning the weights of the signals, so that the figures reported are of conversations they were not tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextmem_agents.evaluation.haystacks import Haystack
from nextmem_agents.evaluation.retrieval import Searched, measure
from nextmem_agents.recall.ranking import TUNED_ON, WEIGHTS

_FACTORS = (0.0, 0.5, 0.7, 1.4, 2.0)
_ROUNDS = 3

Weights = dict[str, float]


class Candidates:
    """The signals of each question's candidates, padded: ``[questions, 256, signals]``."""

    def __init__(self, searched: Searched, haystacks: Sequence[Haystack]):
        self.names = searched.haystacks
        queries = [(haystack, query) for haystack in haystacks for query in haystack.queries]
        widest = max(map(len, searched.parts))
        shape = len(queries), widest
        self._signals = np.zeros((*shape, len(WEIGHTS)))
        self._there = np.zeros(shape, dtype=bool)
        self._relevant = np.zeros(shape, dtype=bool)
        self._n_relevant = np.array([len(query.evidence) for _, query in queries])
        self._ids: list[list[str]] = []
        self._evidence = [query.evidence for _, query in queries]
        for row, (scored, (haystack, query)) in enumerate(zip(searched.parts, queries, strict=True)):
            self._ids.append([haystack.ranked([id_])[0] for id_, _ in scored])
            self._there[row, : len(scored)] = True
            for column, (name, (_, score)) in enumerate(zip(self._ids[row], scored, strict=True)):
                self._signals[row, column] = [getattr(score, signal) or 0.0 for signal in WEIGHTS]
                self._relevant[row, column] = name in query.evidence

    def _totals(self, weights: Weights, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        found = self._signals[rows] @ np.array([weights[name] for name in WEIGHTS])
        return np.where(self._there[rows], np.round(found, 6), -1.0)

    def objective(self, weights: Weights, rows: npt.NDArray[np.int64]) -> float:
        """Recall at 5 plus recall at 10, over the questions ``rows``."""
        order = np.argsort(-self._totals(weights, rows), axis=1, kind="stable")[:, :10]
        hits = np.take_along_axis(self._relevant[rows], order, axis=1)
        return float(((hits[:, :5].sum(1) + hits.sum(1)) / self._n_relevant[rows]).mean())

    def tune(self, rows: npt.NDArray[np.int64]) -> Weights:
        """Weights for the questions ``rows``: from equal ones, one after the other as long as it helps.

        Few steps on purpose: seven numbers learn little from a few hundred questions.
        """
        weights = dict.fromkeys(WEIGHTS, 0.2)
        best = self.objective(weights, rows)
        for _ in range(_ROUNDS):
            for name in WEIGHTS:
                for factor in _FACTORS:
                    tried = weights | {name: weights[name] * factor}
                    found = self.objective(tried, rows)
                    if found > best + 1e-4:
                        weights, best = tried, found
        return weights

    def measured(self, weights: Weights, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The measures of the questions ``rows`` under these weights."""
        order = np.argsort(-self._totals(weights, rows), axis=1, kind="stable")
        return np.array(
            [
                measure(
                    [self._ids[row][i] for i in ranked if i < len(self._ids[row])][:10], self._evidence[row]
                )
                for row, ranked in zip(rows.tolist(), order[:, :20].tolist(), strict=True)
            ]
        )


def cross_validated(searched: Searched, haystacks: Sequence[Haystack]) -> npt.NDArray[np.float64]:
    """The measures of every question under weights that were tuned on all other conversations: ``[questions, n]``."""
    candidates = Candidates(searched, haystacks)
    found = np.zeros_like(searched.values["hybrid"])
    for name in dict.fromkeys(searched.haystacks.tolist()):
        own = np.flatnonzero(searched.haystacks == name)
        others = np.flatnonzero(searched.haystacks != name)
        found[own] = candidates.measured(candidates.tune(others), own)
    return found


def untouched(searched: Searched) -> npt.NDArray[np.bool_] | None:
    """Which questions are of conversations that the shipped weights were not tuned on; None if it was no LoCoMo."""
    tuned = np.isin(searched.haystacks, TUNED_ON)
    return None if not tuned.any() or tuned.all() else ~tuned
