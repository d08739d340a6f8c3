"""One score from two signals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.ranking import Score, fuse

signals = st.none() | st.dictionaries(st.integers(1, 30), st.floats(0, 1))


@given(signals, signals, signals)
def test_scores_are_ordered_and_between_0_and_1(
    lexical: dict[int, float] | None, context: dict[int, float] | None, latent: dict[int, float] | None
) -> None:
    scores = fuse(lexical, context, latent)
    totals = [score.total for score in scores.values()]
    assert totals == sorted(totals, reverse=True)
    assert all(0 <= total <= 1 for total in totals)
    assert set(scores) == {*(lexical or {}), *(context or {}), *(latent or {})}


def test_a_signal_that_is_off_is_none_in_the_parts() -> None:
    assert fuse(lexical={1: 0.5})[1] == Score(0.5, 0.5, None, None)
    assert fuse(latent={1: 0.5})[1] == Score(0.5, None, None, 0.5)


def test_ties_go_to_the_later_memory() -> None:
    assert list(fuse(lexical={1: 0.5, 2: 0.5})) == [2, 1]


def test_a_negative_cosine_is_no_similarity() -> None:
    assert fuse(latent={1: -0.5})[1].total == 0


def test_a_neighbour_of_a_match_comes_before_what_has_nothing_to_do_with_it() -> None:
    assert list(fuse({1: 0.8}, {2: 0.8}, {3: 0.9, 1: 0.1, 2: 0.1})) == [1, 2, 3]
