"""What a person types to filter memories, and the ``where`` that it means."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store.checks import TIME_FIELDS, WORD_FIELDS

_OPERATORS = {"=": "$eq", "!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_CONDITION = re.compile(r'\s*([^\s=!<>"]+)(!=|>=|<=|=|>|<)("(?:[^"\\]|\\.)*"|[^\s"]+)(?=\s|$)')
_NUMBERS: tuple[Callable[[str], int | float], ...] = (int, float)


def parse_filter(text: str) -> dict[str, dict[str, Any]] | None:
    """``where`` from conditions that are separated by spaces, all of which have to hold; None from none.

    A value is a number, ``true``, ``false``, a word, several words in quotes (which are always text), or
    alternatives: ``a|b``.

    Raises:
        InvalidArgument: a condition is malformed, or two of one field and operator differ; it says which.

    Examples:
        >>> parse_filter('role=user year>=2020 place!="New York"')
        {'role': {'$eq': 'user'}, 'year': {'$gte': 2020}, 'place': {'$ne': 'New York'}}
        >>> parse_filter("role=user|assistant")
        {'role': {'$in': ['user', 'assistant']}}
        >>> parse_filter("role user")
        Traceback (most recent call last):
        nextmem_agents.errors.InvalidArgument: 'role user' is no filter; write field=value, such as role=user ...
    """
    where: dict[str, dict[str, Any]] = {}
    position = 0
    text = text.strip()
    while position < len(text):
        match = _CONDITION.match(text, position)
        if match is None:
            raise InvalidArgument(
                f"{text[position:].strip()[:80]!r} is no filter; write field=value, such as role=user or year>=2020, "
                'and quotes around a value with spaces: place="New York"'
            )
        field, operator, written = match.groups()
        name, value = _OPERATORS[operator], _value(field, written)
        if operator == "=" and "|" in written and not written.startswith('"'):
            name, value = "$in", [_value(field, each) for each in written.split("|")]
        conditions = where.setdefault(field, {})
        if name in conditions and conditions[name] != value:
            raise InvalidArgument(
                f"{field}{operator} stands there twice, with different values; for any of several write {field}=a|b"
            )
        conditions[name] = value
        position = match.end()
    return where or None


def _value(field: str, written: str) -> Any:
    if written.startswith('"'):
        try:
            return str(json.loads(written))
        except ValueError as error:
            raise InvalidArgument(f"{written} is no quoted text: {error}") from error
    if field in WORD_FIELDS or field in TIME_FIELDS:
        return written
    if written in ("true", "false"):
        return written == "true"
    for number in _NUMBERS:
        try:
            return number(written)
        except ValueError:
            continue
    return written
