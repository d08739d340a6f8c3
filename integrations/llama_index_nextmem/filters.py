"""``MetadataFilters`` as the store's ``where``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from nextmem_agents.errors import InvalidArgument

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
}


def as_where(filters: MetadataFilters | None, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The conditions of ``filters``, and those of ``where`` beside them, as one ``where``.

    A filter's key is a field of the memory (``role``, ``session``, ``occurred_at`` …) or of its metadata. All
    conditions are ANDed.

    Raises:
        InvalidArgument: an operator or a combination that the store does not have; it says what to write.

    Examples:
        >>> as_where(MetadataFilters(filters=[MetadataFilter(key="year", value=2020, operator=">=")]))
        {'year': {'$gte': 2020}}
    """
    found = {
        key: dict(value) if isinstance(value, Mapping) else {"$eq": value}
        for key, value in (where or {}).items()
    }
    for each in _flat(filters):
        if each.operator not in _OPERATORS:
            known = " ".join(operator.value for operator in _OPERATORS)
            raise InvalidArgument(
                f"the filter on {each.key!r} has the operator {each.operator.value!r}, which memories cannot be "
                f"selected by; the operators are {known}"
            )
        operator, conditions = _OPERATORS[each.operator], found.setdefault(each.key, {})
        if operator in conditions and conditions[operator] != each.value:
            raise InvalidArgument(
                f"two filters on {each.key!r} both have the operator {each.operator.value!r}, with different values; "
                "for any of several values write one filter with the operator 'in'"
            )
        conditions[operator] = each.value
    return found


def _flat(filters: MetadataFilters | None) -> Iterator[MetadataFilter]:
    if filters is None:
        return
    if not isinstance(filters, MetadataFilters):
        raise InvalidArgument(f"filters are MetadataFilters(filters=[…]), not {filters!r:.80}")
    alone = len(filters.filters) == 1 and filters.condition is not FilterCondition.NOT
    if not alone and filters.condition not in (None, FilterCondition.AND):
        raise InvalidArgument(
            f"filters are combined by {filters.condition.value!r}, and memories can be selected by 'and' only; for any "
            "of several values of one key write one filter with the operator 'in', and '!=' to negate"
        )
    for each in filters.filters:
        if isinstance(each, MetadataFilters):
            yield from _flat(each)
        else:
            yield each
