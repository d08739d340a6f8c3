"""One score from two signals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.ranking import fuse

signals = st.none() | st.dictionaries(st.integers(1, 30), st.floats(0, 1))


@given(signals, signals)
def test_scores_are_ordered_and_between_0_and_1(
    lexical: dict[int, float] | None, latent: dict[int, float] | None
) -> None:
    scores = fuse(lexical, latent)
    totals = [score.total for score in scores.values()]
    assert totals == sorted(totals, reverse=True)
    assert all(0 <= total <= 1 for total in totals)
    assert set(scores) == {*(lexical or {}), *(latent or {})}


def test_a_signal_that_is_off_is_none_in_the_parts() -> None:
    assert fuse({1: 0.5}, None)[1].latent is None
    assert fuse(None, {1: 0.5})[1].lexical is None


def test_ties_go_to_the_later_memory() -> None:
    assert list(fuse({1: 0.5, 2: 0.5}, None)) == [2, 1]


def test_a_negative_cosine_is_no_similarity() -> None:
    assert fuse(None, {1: -0.5})[1].total == 0
