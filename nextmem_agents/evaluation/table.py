"""Rows of figures as a Markdown table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


def rendered(rows: Sequence[Mapping[str, object]], as_json: bool = False) -> str:
    """The rows, which share their columns; floats to four significant digits in a table, in full in JSON.

    >>> print(rendered([{"domain": "squad", "f1": 0.99951, "literal": None}]))
    | domain | f1 | literal |
    | --- | --- | --- |
    | squad | 0.9995 | – |
    """
    if as_json:
        return json.dumps(rows, indent=1)
    names = list(rows[0]) if rows else []
    lines = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    lines += [[_cell(value) for value in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
