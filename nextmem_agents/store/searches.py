"""Searching ``records.sqlite3``: vectors, terms and neighbours; each statement takes one scope's key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.filters import Clause, select_current
from nextmem_agents.store.halves import from_halves, readable
from nextmem_agents.store.outline import Outline, Outlines
from nextmem_agents.store.records import Postings, TermPostings, Where
from nextmem_agents.store.rows import Versions, batches, matching_versions, selection, undamaged


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
        values = from_halves(b"".join(readable(row[1], dim) for row in rows_of_block), dim)
        with undamaged("the number of a vector's memory"):
            numbers = np.array([row[0] for row in rows_of_block], dtype=np.int64)
        yield numbers, values


def archived_vectors(
    sql: sqlite3.Connection, scope: int, dim: int, versions: Versions
) -> Iterator[tuple[Versions, npt.NDArray[np.float32]]]:
    """The vectors of those of the versions that others have replaced; blocks as in :func:`vectors`."""
    for version, stored in _archived(sql, "vectors", scope, versions.tolist()):
        values = from_halves(readable(stored, dim, None), dim)
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


def pending_versions(sql: sqlite3.Connection, scope: int) -> Versions:
    """``[n]`` int64: the versions of a scope with a vector that the index has yet to take, ascending."""
    rows = sql.execute(
        "SELECT DISTINCT version FROM vectors WHERE scope = ? AND indexed = 0 ORDER BY version", (scope,)
    )
    return np.fromiter((version for (version,) in rows), dtype=np.int64)


def has_own_collection(sql: sqlite3.Connection, scope: int) -> bool:
    """Whether the scope is large enough for the index to have a collection for it alone."""
    return sql.execute("SELECT 1 FROM scopes WHERE scope = ? AND own = 1", (scope,)).fetchone() is not None


def count_current(sql: sqlite3.Connection, scope: int) -> int:
    """How many memories of the scope have vectors that are searched, those that hold no longer included."""
    return int(
        sql.execute("SELECT COUNT(*) FROM memories WHERE scope = ? AND current = 1", (scope,)).fetchone()[0]
    )


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
    listed: dict[str, list[tuple[int, int, int]]] = {term: [] for term in terms}
    for batch in batches(list(listed)):
        marks = ",".join("?" * len(batch))
        for term, *row in sql.execute(
            f"SELECT term, version, frequency, length FROM postings WHERE scope = ? AND term IN ({marks})"  # noqa: S608 -- marks
            " ORDER BY term, version",
            (scope, *batch),
        ):
            listed[term].append((row[0], row[1], row[2]))
    for version, counts in past.items():
        for term in listed.keys() & counts.keys():
            listed[term].append((version, counts[term], sum(counts.values())))
    found = {
        term: _term_postings(sorted(rows) if past else rows, held, allowed) for term, rows in listed.items()
    }
    return Postings(n_memories, average, found)


def _archived_terms(sql: sqlite3.Connection, scope: int, versions: Versions) -> dict[int, dict[str, int]]:
    with undamaged("the list of a former version's terms"):
        return {
            version: {str(term): int(count) for term, count in json.loads(terms).items()}
            for version, terms in _archived(sql, "terms", scope, versions.tolist())
        }


def _term_postings(
    rows: list[tuple[int, int, int]], held: Versions | None, allowed: Versions | None
) -> TermPostings:
    with undamaged("the lexical index"):
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


def outline(
    sql: sqlite3.Connection,
    scope: int | None,
    where: Where | None,
    at: Moment | None = None,
    cache: Outlines | None = None,
) -> Outline:
    """Who said what when, of the memories that hold; of none without a scope. See ``Store.outline``."""
    if scope is None:
        return Outline.read(())
    at = at or moment()
    if at.as_of is not None or cache is None:
        found = _outline(sql, select_current(scope, None, at))
    else:
        # Of the cached ones, some may hold no longer, or have expired.
        found = cache.get(scope, lambda: _outline(sql, Clause("m.scope = ? AND m.current = 1", [scope])))
        held = selection(sql, scope, None, at)
        found = found if held is None else found.of(np.isin(found.versions, held))
    if not where:
        return found
    return replace(found, matches=np.isin(found.versions, matching_versions(sql, scope, where, at)))


def _outline(sql: sqlite3.Connection, clause: Clause) -> Outline:
    rows = sql.execute(
        "SELECT m.version, m.session, m.role, COALESCE(m.occurred_at, m.created_at), m.length"  # noqa: S608 -- bound
        f" FROM memories AS m WHERE {clause.sql} ORDER BY m.session, m.version",
        clause.parameters,
    )
    with undamaged("the session, speaker or time of a memory"):
        return Outline.read(rows.fetchall())
