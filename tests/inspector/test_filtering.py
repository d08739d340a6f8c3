"""What is typed to filter means what it says."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents import InvalidArgument
from nextmem_agents.inspector.filtering import parse_filter

FIELDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8).filter(
    lambda name: name != "id"
)


@pytest.mark.parametrize("text", ["", "  \t "])
def test_nothing_typed_is_no_filter(text: str) -> None:
    assert parse_filter(text) is None


@given(st.dictionaries(FIELDS, st.text(st.characters(codec="utf-8")), min_size=1, max_size=4))
def test_quoted_text_is_taken_as_it_stands(wanted: dict[str, str]) -> None:
    typed = " ".join(f"{field}={json.dumps(value)}" for field, value in wanted.items())
    assert parse_filter(typed) == {field: {"$eq": value} for field, value in wanted.items()}


@given(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([">", ">=", "<", "<=", "!="]),
)
def test_numbers_compare_as_numbers(value: float, operator: str) -> None:
    meant = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte", "!=": "$ne"}[operator]
    assert parse_filter(f"year{operator}{value}") == {"year": {meant: value}}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("session=12", {"session": {"$eq": "12"}}),
        ('year="12"', {"year": {"$eq": "12"}}),
        ("done=true", {"done": {"$eq": True}}),
        ("year>=2020 year<2024", {"year": {"$gte": 2020, "$lt": 2024}}),
        ("role=a|b", {"role": {"$in": ["a", "b"]}}),
        ("occurred_at>=2026-05-01", {"occurred_at": {"$gte": "2026-05-01"}}),
    ],
)
def test_values_have_the_type_that_they_look_like(typed: str, meant: object) -> None:
    assert parse_filter(typed) == meant


@pytest.mark.parametrize("typed", ["role", "role=", "=user", "role user", 'role="open', "a=1 b", 'a="x"y'])
def test_what_is_no_condition_is_refused(typed: str) -> None:
    with pytest.raises(InvalidArgument, match="write field=value"):
        parse_filter(typed)


@pytest.mark.parametrize("typed", ["year!=2020 year!=2021", "role=a role=b", "role=a|b role=c|d"])
def test_no_condition_is_forgotten_for_a_later_one(typed: str) -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        parse_filter(typed)
    once = typed.split()[0]
    assert parse_filter(f"{once} {once}") == parse_filter(once)


@given(st.text(max_size=40))
def test_no_other_error_is_ever_raised(typed: str) -> None:
    with suppress(InvalidArgument):
        parse_filter(typed)
