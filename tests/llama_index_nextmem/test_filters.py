"""MetadataFilters: what the store has is honoured, the rest refused with a word on what to write."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_nextmem import NextMemRetriever
from llama_index_nextmem.filters import as_where
from nextmem_agents import InvalidArgument, Scope

YEARS = range(2019, 2024)


def only(key: str, operator: str, value: Any) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, operator=FilterOperator(operator), value=value)])


@pytest.mark.parametrize(
    ("operator", "value", "matches"),
    [
        ("==", 2020, lambda year: year == 2020),
        ("!=", 2020, lambda year: year != 2020),
        (">", 2020, lambda year: year > 2020),
        (">=", 2020, lambda year: year >= 2020),
        ("<", 2020, lambda year: year < 2020),
        ("<=", 2020, lambda year: year <= 2020),
        ("in", [2019, 2023], lambda year: year in (2019, 2023)),
    ],
)
def test_every_operator_of_the_store_selects(alice: Scope, operator: str, value: Any, matches: Any) -> None:
    alice.remember([f"The fair of {year}." for year in YEARS], metadata=[{"year": year} for year in YEARS])
    found = NextMemRetriever(alice, k=9, filters=only("year", operator, value)).retrieve("Which fair?")
    assert sorted(node.metadata["year"] for node in found) == [year for year in YEARS if matches(year)]


def test_filters_are_anded_with_each_other_and_with_where(alice: Scope) -> None:
    both = MetadataFilters(
        filters=[
            *only("year", ">=", 2020).filters,
            only("year", "<", 2024),
            *only("role", "!=", "tool").filters,
        ]
    )
    assert as_where(both, {"year": {"$ne": 2022}, "session": "s1"}) == {
        "year": {"$ne": 2022, "$gte": 2020, "$lt": 2024},
        "session": {"$eq": "s1"},
        "role": {"$ne": "tool"},
    }
    assert as_where(None) == as_where(MetadataFilters(filters=[])) == {}


@pytest.mark.parametrize("operator", ["nin", "any", "all", "text_match", "contains", "is_empty"])
def test_what_the_store_lacks_is_refused_when_the_retriever_is_made(alice: Scope, operator: str) -> None:
    with pytest.raises(
        InvalidArgument, match=f"'tag' has the operator '{operator}'.* the operators are == !="
    ):
        NextMemRetriever(alice, filters=only("tag", operator, ["a"]))


@pytest.mark.parametrize("condition", [FilterCondition.OR, FilterCondition.NOT])
def test_other_combinations_than_and_are_refused(condition: FilterCondition) -> None:
    filters = [*only("a", "==", 1).filters, *only("b", "==", 2).filters]
    with pytest.raises(InvalidArgument, match=f"combined by '{condition.value}'.*with the operator 'in'"):
        as_where(MetadataFilters(filters=filters, condition=condition))


def test_an_or_of_one_filter_is_that_filter_but_not_its_negation() -> None:
    one = only("a", "==", 1).filters
    assert as_where(MetadataFilters(filters=one, condition=FilterCondition.OR)) == {"a": {"$eq": 1}}
    with pytest.raises(InvalidArgument, match="'not'"):
        as_where(MetadataFilters(filters=one, condition=FilterCondition.NOT))


def test_two_values_for_one_operator_are_a_contradiction() -> None:
    with pytest.raises(InvalidArgument, match=r"two filters on 'a'.*operator 'in'"):
        as_where(only("a", "==", 1), {"a": 2})
