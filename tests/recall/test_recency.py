"""Recency falls by half with each half-life, and never leaves 0..1."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents import InvalidArgument, Recency

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)


@given(st.integers(0, 5000), st.integers(1, 400))
def test_another_half_life_halves_it(age: int, half_life: int) -> None:
    recency = Recency(timedelta(days=half_life), now=NOW)
    value, later = (recency.value(NOW - timedelta(days=d)) for d in (age, age + half_life))
    assert 0 <= later <= value <= 1
    assert later == pytest.approx(value / 2)


def test_the_future_is_as_recent_as_the_present() -> None:
    assert Recency(now=NOW).value(NOW + timedelta(days=9)) == 1.0


def test_a_naive_moment_is_utc() -> None:
    assert Recency(timedelta(days=1), now=datetime(2025, 6, 2)).value(NOW) == 0.5


@pytest.mark.parametrize(
    "wrong", [{"half_life": 7}, {"half_life": timedelta(0)}, {"weight": 2}, {"now": "today"}]
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        Recency(**wrong)  # type: ignore[arg-type]
