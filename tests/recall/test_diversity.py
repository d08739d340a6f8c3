"""Maximal marginal relevance, against its definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.diversity import diversify


@st.composite
def candidates(draw: st.DrawFn) -> tuple[list[float], np.ndarray]:
    n = draw(st.integers(1, 8))
    scores = sorted(draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)), reverse=True)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    vectors = rng.normal(size=(n, 3)).astype(np.float32)
    return scores, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(candidates(), st.integers(1, 10), st.floats(0, 1))
def test_each_choice_is_the_best_of_those_left(
    given_: tuple[list[float], np.ndarray], k: int, share: float
) -> None:
    scores, vectors = given_
    chosen = [i for i, _, _ in diversify(scores, vectors, k, share)]
    assert len(chosen) == len(set(chosen)) == min(k, len(scores))
    assert scores[chosen[0]] == max(scores)
    cosine = np.clip(vectors @ vectors.T, 0, 1)

    def worth(i: int, before: list[int]) -> float:
        return (1 - share) * scores[i] - share * max(cosine[i, j] for j in before)

    for n in range(1, len(chosen)):
        left = set(range(len(scores))) - set(chosen[:n])
        assert worth(chosen[n], chosen[:n]) >= max(worth(i, chosen[:n]) for i in left) - 1e-6


@given(candidates(), st.integers(1, 10))
def test_without_diversity_the_order_is_that_of_the_scores(
    given_: tuple[list[float], np.ndarray], k: int
) -> None:
    scores, vectors = given_
    chosen = [scores[i] for i, _, _ in diversify(scores, vectors, k, 0.0)]
    assert chosen == scores[:k]


def test_what_it_is_like_is_told() -> None:
    same = np.array([[1, 0], [1, 0]], np.float32)
    assert diversify([0.9, 0.8], same, 2, 0.5) == [(0, 0.0, None), (1, 1.0, 0)]
