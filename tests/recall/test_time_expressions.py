"""Times that questions name."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.time_expressions import Period, closeness, find_times

NOW = datetime(2024, 3, 6, 15, 30, tzinfo=timezone.utc)  # a Wednesday


def spans(text: str) -> list[list[tuple[str, str]]]:
    """Each expression's periods as first and last day."""
    return [
        [
            (p.begin.date().isoformat(), (p.end - timedelta(days=1)).date().isoformat())
            for p in expression.periods
        ]
        for expression in find_times(text, NOW, (2022, 2023))
    ]


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("on 7 May 2023", "2023-05-07", "2023-05-07"),
        ("on 7th of May, 2023?", "2023-05-07", "2023-05-07"),
        ("on May 7th, 2023", "2023-05-07", "2023-05-07"),
        ("on 2023-05-07", "2023-05-07", "2023-05-07"),
        ("in May 2023", "2023-05-01", "2023-05-31"),
        ("in December of 2023", "2023-12-01", "2023-12-31"),
        ("in Sept 2023", "2023-09-01", "2023-09-30"),
        ("in summer 2022", "2022-06-01", "2022-08-31"),
        ("in the winter of 2022", "2022-12-01", "2023-02-28"),
        ("in 2021", "2021-01-01", "2021-12-31"),
        ("on 29 February 2024", "2024-02-29", "2024-02-29"),
        ("yesterday", "2024-03-05", "2024-03-05"),
        ("today", "2024-03-06", "2024-03-06"),
        ("last week", "2024-02-26", "2024-03-03"),
        ("this month", "2024-03-01", "2024-03-31"),
        ("last month", "2024-02-01", "2024-02-29"),
        ("last year", "2023-01-01", "2023-12-31"),
        ("last summer", "2023-06-01", "2023-08-31"),
        ("last winter", "2023-12-01", "2024-02-29"),
        ("last Friday", "2024-03-01", "2024-03-01"),
        ("last Wednesday", "2024-02-28", "2024-02-28"),
        ("last weekend", "2024-03-02", "2024-03-03"),
        ("3 days ago", "2024-03-03", "2024-03-03"),
        ("two weeks ago", "2024-02-18", "2024-02-24"),
    ],
)
def test_a_time_is_read_as_people_mean_it(text: str, first: str, last: str) -> None:
    assert spans(f"What did she do {text}") == [[(first, last)]]


def test_a_month_without_a_year_is_of_each_year() -> None:
    both = [("2022-06-01", "2022-06-30"), ("2023-06-01", "2023-06-30")]
    assert spans("What happened in June?") == [both]


def test_a_day_that_a_year_lacks_is_of_the_others() -> None:
    assert find_times("on 29 February", NOW, (2023, 2024))[0].periods == (
        Period(datetime(2024, 2, 29, tzinfo=timezone.utc), datetime(2024, 3, 1, tzinfo=timezone.utc)),
    )


@pytest.mark.parametrize(
    "text",
    [
        "What may I do?",
        "Where did April go?",
        "He will march to the May Inn.",
        "since may",
        "room 2023b",
        "",
    ],
)
def test_what_names_no_time_gives_none(text: str) -> None:
    assert spans(text) == []


def test_of_a_day_that_there_is_not_the_month_is_left() -> None:
    assert spans("on 31 June 2023") == [[("2023-06-01", "2023-06-30")]]


def test_several_times_are_all_found() -> None:
    assert [len(periods) for periods in spans("between 11 August 2023 and 15 August 2023")] == [1, 1]


@given(st.text(max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    for expression in find_times(text, NOW, (2023,)):
        assert expression.periods
        assert all(p.begin < p.end for p in expression.periods)


@given(st.sampled_from(["999 years ago", "100 months ago", "last year", "today"]))
def test_far_times_do_not_overflow(text: str) -> None:
    assert len(find_times(text, NOW, ())) <= 1


def test_closeness_is_1_inside_and_falls_outside() -> None:
    may = Period(datetime(2023, 5, 1, tzinfo=timezone.utc), datetime(2023, 6, 1, tzinfo=timezone.utc))
    days = [datetime(2023, 5, 20), datetime(2023, 6, 4), datetime(2023, 6, 20), datetime(2023, 4, 28)]
    times = np.array([day.replace(tzinfo=timezone.utc).timestamp() for day in days] + [np.nan])
    inside, after, later, before, never = closeness([may], times).tolist()
    assert inside == 1
    assert inside > after > later > 0
    assert after > before > 0  # three days after it counts more than three days before it
    assert never == 0
    assert closeness([], times).tolist() == [0] * 5
