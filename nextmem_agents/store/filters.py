"""``where`` to SQL: the one place where a selection of memories is made, and it always names the scope.

Several keys are ANDed, and so are several operators on one key::

    {"role": "user", "year": {"$gte": 2020, "$lt": 2024}, "tag": {"$in": ["a", "b"]}}

- A bare value means ``$eq``. The operators are ``$eq $ne $gt $gte $lt $lte $in``.
- A field that a memory lacks never matches, except by ``$ne``: "not equal" holds for what is not there.
- Integers and floats compare as numbers, strings by code points. A boolean equals only a boolean, a number
  only a number: ``1`` does not match ``True``, and ``{"$gt": 5}`` does not match ``"7"``.
- ``session agent role id written_by derived_from supersedes`` are text, and ``importance`` is a number.
  ``occurred_at created_at updated_at valid_from valid_to expires_at`` take datetimes or ISO 8601 strings; a
  naive one is taken as UTC.
- Time belongs to every selection: what has expired is never in one, and what holds no longer is only in one that
  asks about the time when it did.

Values only ever travel as bound parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store.checks import (
    NUMBER_FIELDS,
    RESERVED_FIELDS,
    TIME_FIELDS,
    WORD_FIELDS,
    check_key,
    check_scalar,
    check_time,
    time_to_text,
)
from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.records import Scalar, Where

COMPARISONS = {"$eq": "=", "$ne": "<>", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
RANGES = frozenset({"$gt", "$gte", "$lt", "$lte"})
MAX_VALUES = 10_000
"""Values one filter may hold in all: SQLite binds at most 32,766 parameters."""

BOOLEAN, NUMBER, TEXT = "b", "n", "t"


class Clause(NamedTuple):
    """A condition on ``memories AS m``, with the parameters it binds."""

    sql: str
    parameters: list[Scalar]


def kind_of(value: Scalar) -> str:
    """The comparison class of a metadata value: ``b``, ``n`` or ``t``; values of two classes never match."""
    if isinstance(value, bool):
        return BOOLEAN
    return TEXT if isinstance(value, str) else NUMBER


def select_current(scope: int, where: Where | None = None, at: Moment | None = None) -> Clause:
    """The condition for the memories of one scope that hold, now or at a time, and match ``where``.

    Args:
        scope: the scope's key in the database.
        where: the filter; None or empty selects the whole scope.
        at: when the read takes place and which time it asks about; now, by default.

    Raises:
        InvalidArgument: for an unknown operator, a malformed value or a malformed key; it says what to write.
    """
    at = at or moment()
    if at.as_of is None:
        holds = Clause("m.current = 1 AND (m.valid_to IS NULL OR m.valid_to > ?)", [at.now])
    else:
        holds = Clause("m.valid_from <= ? AND (m.valid_to IS NULL OR m.valid_to > ?)", [at.as_of, at.as_of])
    return _join([_of_scope(scope), holds, unexpired(at), *_filters(scope, where)])


def select_kept(scope: int, where: Where | None = None, at: Moment | None = None) -> Clause:
    """As :func:`select_current`, with the memories that hold no longer: what there is to forget."""
    return _join(
        [_of_scope(scope), Clause("m.current = 1", []), unexpired(at or moment()), *_filters(scope, where)]
    )


def unexpired(at: Moment) -> Clause:
    """The condition for what has not expired."""
    return Clause("(m.expires_at IS NULL OR m.expires_at > ?)", [at.now])


def _of_scope(scope: int) -> Clause:
    return Clause("m.scope = ?", [scope])


def _filters(scope: int, where: Where | None) -> list[Clause]:
    if where is None:
        return []
    if not isinstance(where, Mapping):
        raise InvalidArgument(f"where is a dictionary such as {{'role': 'user'}}, not {type(where).__name__}")
    return [clause for key, condition in where.items() for clause in _conditions(scope, key, condition)]


def _join(clauses: list[Clause]) -> Clause:
    parameters = [value for clause in clauses for value in clause.parameters]
    if len(parameters) > MAX_VALUES:
        raise InvalidArgument(f"a filter takes at most {MAX_VALUES} values; ask in several calls")
    return Clause(" AND ".join(clause.sql for clause in clauses), parameters)


def check_where(where: Where | None) -> None:
    """Raise ``InvalidArgument`` for a malformed filter, even where there is nothing to filter."""
    select_current(0, where)


def _conditions(scope: int, key: Any, condition: Any) -> list[Clause]:
    if isinstance(key, str) and key.startswith("$"):
        raise InvalidArgument(
            f"{key!r} is no field; several keys of where are ANDed, operators stand inside a field: "
            "{'year': {'$gte': 2020}}, and there is no $or or $and"
        )
    field = key if isinstance(key, str) and key in RESERVED_FIELDS else check_key(key)
    if not isinstance(condition, Mapping):
        condition = {"$eq": condition}
    elif not condition:
        raise InvalidArgument(
            f"where {field!r}: {{}} says nothing; give a value or an operator such as {{'$eq': 1}}"
        )
    return [_condition(scope, field, operator, value) for operator, value in condition.items()]


def _condition(scope: int, field: str, operator: Any, value: Any) -> Clause:
    if operator == "$in":
        if not isinstance(value, list | tuple | set | frozenset):
            raise InvalidArgument(f"where {field!r}: $in takes a list, not {type(value).__name__}")
        values = [_value(field, operator, each) for each in value]
    elif operator in COMPARISONS:
        values = [_value(field, operator, value)]
    else:
        known = " ".join([*COMPARISONS, "$in"])
        raise InvalidArgument(f"where {field!r}: {operator!r:.80} is no operator; the operators are {known}")
    if field in RESERVED_FIELDS:
        return _column(field, operator, values)
    return _attribute(scope, field, operator, values)


def _value(field: str, operator: str, value: Any) -> Scalar:
    if isinstance(value, list | tuple | set | frozenset):
        raise InvalidArgument(f"where {field!r}: a list of values is written {{'$in': [...]}}")
    if isinstance(value, Mapping):
        raise InvalidArgument(f"where {field!r}: {operator} takes a plain value, not a dictionary")
    if value is None:
        raise InvalidArgument(f"where {field!r}: None is not stored, so it cannot be compared with")
    if field in TIME_FIELDS:
        return time_to_text(check_time(f"where {field!r}", value))
    if field in WORD_FIELDS and not isinstance(value, str):
        raise InvalidArgument(
            f"where {field!r}: this field is text; compare it with a string, not {value!r:.80}"
        )
    if field in NUMBER_FIELDS and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidArgument(f"where {field!r}: this field is a number; it is not {value!r:.80}")
    if isinstance(value, float) and math.isinf(value):
        return float(value)
    if isinstance(value, bool) and operator in RANGES:
        raise InvalidArgument(f"where {field!r}: booleans have no order; use $eq or $ne")
    return check_scalar(f"where {field!r}: the value", value)


def _column(field: str, operator: str, values: list[Scalar]) -> Clause:
    if operator == "$in":
        return Clause(f"m.{field} IN ({_marks(values)})", values)
    if operator == "$ne":
        return Clause(f"m.{field} IS NOT ?", values)  # also true of NULL
    return Clause(f"m.{field} {COMPARISONS[operator]} ?", values)


def _attribute(scope: int, field: str, operator: str, values: list[Scalar]) -> Clause:
    comparison = "=" if operator in {"$ne", "$in"} else COMPARISONS[operator]
    membership = "NOT IN" if operator == "$ne" else "IN"
    tests: list[str] = []
    parameters: list[Scalar] = [scope, field]
    for kind in (BOOLEAN, NUMBER, TEXT):
        of_kind = [value for value in values if kind_of(value) == kind]
        if not of_kind:
            continue
        test = f"IN ({_marks(of_kind)})" if operator == "$in" else f"{comparison} ?"
        tests.append(f"(kind = ? AND value {test})")
        parameters += [kind, *of_kind]
    # An empty $in matches nothing, as in Python.
    matched = " OR ".join(tests) or "0"
    versions = f"SELECT version FROM attributes WHERE scope = ? AND key = ? AND ({matched})"  # noqa: S608 -- marks
    return Clause(f"m.version {membership} ({versions})", parameters)


def _marks(values: list[Scalar]) -> str:
    return ",".join("?" * len(values))
