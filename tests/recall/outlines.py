"""Outlines of made-up scopes."""

from __future__ import annotations

from collections.abc import Sequence

from nextmem_agents.store.outline import Outline

NOON = "2023-05-07T12:00:00.000000+00:00"


def outline(rows: Sequence[tuple[str | None, str | None, int]]) -> Outline:
    """Memories 1, 2, … by (session, role, terms); sessions in alphabetical order, those without one first."""
    return Outline.read([(i, session, role, NOON, n) for i, (session, role, n) in enumerate(rows, 1)])
