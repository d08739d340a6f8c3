"""LangGraph's filters over an item's value: JSON is compared as its stores compare it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from nextmem_agents.errors import InvalidArgument

_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a value has what a filter wants, field by field.

    Raises:
        InvalidArgument: an operator is unknown.

    Examples:
        >>> matches({"n": 3, "tags": {"kind": "note"}}, {"n": {"$gte": 2}, "tags": {"kind": "note"}})
        True
        >>> matches({"text": "no number"}, {"n": {"$gte": 2}})
        False
    """
    return all(_fits(value.get(field), condition) for field, condition in wanted.items())


def _fits(value: Any, condition: Any) -> bool:
    if isinstance(condition, Mapping):
        if any(str(key).startswith("$") for key in condition):
            return all(_compare(value, name, other) for name, other in condition.items())
        return isinstance(value, Mapping) and all(_fits(value.get(k), v) for k, v in condition.items())
    if isinstance(condition, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(condition)
            and all(_fits(one, other) for one, other in zip(value, condition, strict=True))
        )
    return bool(value == condition)


def _compare(value: Any, name: str, other: Any) -> bool:
    if name == "$eq":
        return bool(value == other)
    if name == "$ne":
        return bool(value != other)
    if name not in _ORDERED:
        raise InvalidArgument(
            f"{name!r} is no operator of a filter; they are $eq, $ne, {', '.join(_ORDERED)}"
        )
    try:
        return _ORDERED[name](float(value), float(other))
    except (TypeError, ValueError):
        return False  # no number: there is no order
