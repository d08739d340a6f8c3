"""Searching ``records.sqlite3``: vectors, terms and neighbours; each statement takes one scope's key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.filters import select_current
from nextmem_agents.store.records import Postings, TermPostings, Where
from nextmem_agents.store.rows import Versions, batches, matching_versions, selection


def vectors(
    sql: sqlite3.Connection, scope: int, dim: int, versions: Versions | None = None, block: int = 4096
) -> Iterator[tuple[Versions, npt.NDArray[np.float32]]]:
    """The vectors of a scope, or of some of its versions: blocks of versions ``[n]``, values ``[n, dim]``."""
    select = "SELECT version, vector FROM vectors WHERE scope = ?"
    order = "ORDER BY version, chunk"
    rows: Iterator[tuple[int, bytes]]
    if versions is None:
        rows = sql.execute(f"{select} {order}", (scope,))
    else:
        rows = (
            row
            for batch in batches(versions.tolist())
            for row in sql.execute(
                f"{select} AND version IN ({','.join('?' * len(batch))}) {order}", (scope, *batch)
            )
        )
    while rows_of_block := list(islice(rows, block)):
        values = np.frombuffer(b"".join(row[1] for row in rows_of_block), dtype="<f4").reshape(-1, dim)
        yield np.array([row[0] for row in rows_of_block], dtype=np.int64), values


def archived_vectors(
    sql: sqlite3.Connection, scope: int, dim: int, versions: Versions
) -> Iterator[tuple[Versions, npt.NDArray[np.float32]]]:
    """The vectors of those of the versions that others have replaced; blocks as in :func:`vectors`."""
    for version, stored in _archived(sql, "vectors", scope, versions.tolist()):
        values = np.frombuffer(stored, dtype="<f4").reshape(-1, dim)
        yield np.full(len(values), version, dtype=np.int64), values


def _archived(
    sql: sqlite3.Connection, column: str, scope: int, versions: Sequence[int]
) -> Iterator[tuple[int, bytes]]:
    for batch in batches(versions):
        yield from sql.execute(
            f"SELECT version, {column} FROM archive WHERE scope = ? AND version IN ({','.join('?' * len(batch))})"  # noqa: S608 -- marks
            " ORDER BY version",
            (scope, *batch),
        )


def exceeds(sql: sqlite3.Connection, scope: int, limit: int) -> bool:
    """Whether the scope has more than ``limit`` vectors, without counting on beyond that."""
    (found,) = sql.execute(
        "SELECT COUNT(*) FROM (SELECT 1 FROM vectors WHERE scope = ? LIMIT ?)", (scope, limit + 1)
    ).fetchone()
    return int(found) > limit


def lengths(sql: sqlite3.Connection, scope: int, at: Moment | None = None) -> tuple[int, float]:
    """The number of memories in the scope that hold and their mean length in terms."""
    clause = select_current(scope, None, at)
    n, total = sql.execute(
        f"SELECT COUNT(*), TOTAL(m.length) FROM memories AS m WHERE {clause.sql}",  # noqa: S608 -- bound
        clause.parameters,
    ).fetchone()
    return n, (total / n if n else 0.0)


def postings(
    sql: sqlite3.Connection,
    scope: int | None,
    terms: Sequence[str],
    where: Where | None,
    at: Moment | None = None,
) -> Postings:
    """The lexical index's answer; without a scope, that of an empty one."""
    if scope is None:
        return Postings(0, 0.0, {term: _term_postings([], None, None) for term in terms})
    at = at or moment()
    held = selection(sql, scope, None, at)
    allowed = matching_versions(sql, scope, where, at) if where else None
    n_memories, average = lengths(sql, scope, at)
    past = {} if at.as_of is None or held is None else _archived_terms(sql, scope, held)
    found = {}
    for term in terms:
        rows = sql.execute(
            "SELECT version, frequency, length FROM postings WHERE scope = ? AND term = ? ORDER BY version",
            (scope, term),
        ).fetchall()
        former = [
            (version, counts[term], sum(counts.values()))
            for version, counts in past.items()
            if term in counts
        ]
        found[term] = _term_postings(sorted(rows + former), held, allowed)
    return Postings(n_memories, average, found)


def _archived_terms(sql: sqlite3.Connection, scope: int, versions: Versions) -> dict[int, dict[str, int]]:
    return {
        version: json.loads(terms) for version, terms in _archived(sql, "terms", scope, versions.tolist())
    }


def _term_postings(
    rows: list[tuple[int, int, int]], held: Versions | None, allowed: Versions | None
) -> TermPostings:
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    if held is not None:
        table = table[np.isin(table[:, 0], held)]
    kept = table if allowed is None else table[np.isin(table[:, 0], allowed)]
    versions, frequencies, sizes = np.ascontiguousarray(kept.T)
    return TermPostings(len(table), versions, frequencies, sizes)


def neighbours(
    sql: sqlite3.Connection,
    scope: int,
    versions: Sequence[int],
    where: Where | None,
    at: Moment | None = None,
) -> dict[int, list[int]]:
    """The memories directly before and after each version in its session, of those that match."""
    at = at or moment()
    allowed = set(matching_versions(sql, scope, where, at).tolist()) if where else None
    holds = select_current(scope, None, at)
    found: dict[int, list[int]] = {}
    for version in versions:
        session = sql.execute(
            f"SELECT m.session FROM memories AS m WHERE {holds.sql} AND m.version = ?",  # noqa: S608 -- bound
            (*holds.parameters, version),
        ).fetchone()
        if session is None or session[0] is None:
            continue
        near = [
            row[0]
            for side, order in (("<", "DESC"), (">", "ASC"))
            for row in sql.execute(
                f"SELECT m.version FROM memories AS m WHERE {holds.sql} AND m.session = ?"  # noqa: S608 -- constants
                f" AND m.version {side} ? ORDER BY m.version {order} LIMIT 1",
                (*holds.parameters, session[0], version),
            )
        ]
        kept = [v for v in near if allowed is None or v in allowed]
        if kept:
            found[version] = kept
    return found
