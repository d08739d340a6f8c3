"""One score from the signals that were used."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.ranking import WEIGHTS, Score, fuse

N = 6
signal = st.none() | st.lists(st.floats(-1, 1), min_size=N, max_size=N).map(np.array)
signals = st.fixed_dictionaries(dict.fromkeys(WEIGHTS, signal))
VERSIONS = np.array([3, 1, 7, 4, 9, 5])


def one(**signals: float) -> Score:
    return fuse(np.array([1]), {name: np.array([value]) for name, value in signals.items()})[1]


@given(signals)
def test_scores_are_ordered_and_between_0_and_1(signals: dict[str, np.ndarray | None]) -> None:
    scores = fuse(VERSIONS, signals)
    totals = [score.total for score in scores.values()]
    assert totals == sorted(totals, reverse=True)
    assert all(0 <= total <= 1 for total in totals)
    assert set(scores) == set(VERSIONS.tolist())


@given(signals)
def test_the_parts_add_up_to_the_score(signals: dict[str, np.ndarray | None]) -> None:
    for score in fuse(VERSIONS, signals).values():
        parts = score.parts()
        assert set(parts) == {name for name, values in signals.items() if values is not None}
        assert all(0 <= value <= 1 for value, _ in parts.values())
        assert abs(sum(value * weight for value, weight in parts.values()) - score.total) < 1e-5
        assert not parts or abs(sum(weight for _, weight in parts.values()) - 1) < 1e-5


@given(signals, st.integers(1, N))
def test_a_limit_keeps_the_best(signals: dict[str, np.ndarray | None], limit: int) -> None:
    assert list(fuse(VERSIONS, signals, limit).items()) == list(fuse(VERSIONS, signals).items())[:limit]


def test_a_signal_that_is_off_is_none_in_the_parts() -> None:
    assert one(lexical=0.5) == Score(0.5, lexical=0.5)
    assert one(latent=0.5) == Score(0.5, latent=0.5)


def test_ties_go_to_the_later_memory() -> None:
    assert list(fuse(np.array([1, 2]), {"lexical": np.array([0.5, 0.5])})) == [2, 1]


def test_a_negative_cosine_is_no_similarity() -> None:
    assert one(latent=-0.5).total == 0


def test_a_neighbour_of_a_match_comes_before_what_has_nothing_to_do_with_it() -> None:
    scores = fuse(
        np.array([1, 2, 3]),
        {
            "lexical": np.array([0.8, 0, 0]),
            "context": np.array([0, 0.8, 0]),
            "around": np.array([0.5, 0.4, 0]),
            "latent": np.array([0.1, 0.1, 0.9]),
        },
    )
    assert list(scores) == [1, 2, 3]


def test_nothing_to_rank_is_no_score() -> None:
    assert fuse(np.zeros(0, np.int64), {"lexical": np.zeros(0)}) == {}
