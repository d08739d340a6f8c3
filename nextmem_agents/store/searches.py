"""Searching ``records.sqlite3``: vectors, terms and neighbours; each statement takes one scope's key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.filters import Clause, select_current
from nextmem_agents.store.halves import all_readable, from_halves, readable
from nextmem_agents.store.outline import Outline, Outlines
from nextmem_agents.store.outline import Row as OutlineRow
from nextmem_agents.store.records import MANY_MEMORIES, HeldTerm, Postings, TermPostings, Where
from nextmem_agents.store.rows import (
    Versions,
    batches,
    matching_versions,
    select_versions,
    selection,
    undamaged,
)


def vectors(
    sql: sqlite3.Connection,
    scope: int,
    dim: int,
    versions: Versions | None = None,
    after: int = 0,
    block: int = 4096,
) -> Iterator[tuple[Versions, npt.NDArray[np.float32]]]:
    """The vectors of a scope, or of some of its versions: blocks of versions ``[n]``, values ``[n, dim]``.

    Args:
        sql: the connection.
        scope: the scope's key.
        dim: D.
        versions: the versions to read; by default all that come after ``after``.
        after: a version.
        block: the most vectors of a block.
    """
    select = "SELECT version, vector FROM vectors WHERE scope = ?"
    order = "ORDER BY version, chunk"
    rows: Iterator[tuple[int, bytes]]
    if versions is None:
        rows = sql.execute(f"{select} AND version > ? {order}", (scope, after))
    else:
        rows = (
            row
            for batch in batches(versions.tolist())
            for row in sql.execute(
                f"{select} AND version IN ({','.join('?' * len(batch))}) {order}", (scope, *batch)
            )
        )
    while rows_of_block := list(islice(rows, block)):
        values = from_halves(all_readable([row[1] for row in rows_of_block], dim), dim)
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


def count_held(sql: sqlite3.Connection, scope: int, at: Moment | None = None) -> int:
    """How many memories of the scope hold."""
    clause = select_current(scope, None, at)
    rows = sql.execute(f"SELECT COUNT(*) FROM memories AS m WHERE {clause.sql}", clause.parameters)  # noqa: S608 -- bound
    return int(rows.fetchone()[0])


def postings(
    sql: sqlite3.Connection,
    scope: int | None,
    terms: Sequence[str],
    where: Where | None,
    at: Moment,
    held_memories: Outline,
) -> Postings:
    """The lexical index's answer; without a scope, that of an empty one.

    Args:
        sql: the connection.
        scope: the scope's key.
        terms: to look up.
        where: which memories are listed.
        at: when the read takes place and which time it asks about.
        held_memories: the outline of the scope at that time, unfiltered.
    """
    listed = dict.fromkeys(terms, np.zeros((2, 0), dtype=np.int64))
    if scope is None:
        return Postings(0, 0.0, {term: _term_postings(table, None, None) for term, table in listed.items()})
    held = selection(sql, scope, None, at)
    allowed = matching_versions(sql, scope, where, at) if where else None
    for batch in batches(list(listed)):
        marks = ",".join("?" * len(batch))
        # A common word stands in tens of thousands of memories: one row for all of them is ten times faster.
        for term, count, *columns in sql.execute(
            "SELECT term, COUNT(*), json_group_array(version), json_group_array(frequency) FROM postings"  # noqa: S608 -- marks
            f" WHERE scope = ? AND term IN ({marks}) GROUP BY term",
            (scope, *batch),
        ):
            with undamaged("the lexical index"):
                # It is read up to what is no number.
                numbers = [np.fromstring(column[1:-1], np.int64, sep=",") for column in columns]
                if any(len(column) != count for column in numbers):
                    raise ValueError("where a number belongs stands none")
                listed[term] = np.stack(numbers)
    if at.as_of is not None and held is not None:
        for term, rows in _archived_postings(sql, scope, held, listed).items():
            listed[term] = np.concatenate([listed[term], np.array(rows, dtype=np.int64).T], axis=1)
    found = {term: _term_postings(table, held, allowed) for term, table in listed.items()}
    average = float(held_memories.lengths.mean()) if len(held_memories) else 0.0
    return Postings(len(held_memories), average, found)


def terms_of(sql: sqlite3.Connection, scope: int, version: int) -> dict[str, int]:
    """The terms that a version was put with, how often each; the same for one that another has replaced."""
    with undamaged("the lexical index"):
        held = {
            str(term): int(frequency)
            for term, frequency in sql.execute(
                "SELECT term, frequency FROM postings WHERE scope = ? AND version = ?", (scope, version)
            )
        }
    return held or _archived_terms(sql, scope, np.array([version])).get(version, {})


def terms(sql: sqlite3.Connection, scope: int, version: int) -> dict[str, HeldTerm]:
    """A version's terms, and in how many current memories each stands."""
    if not any(select_versions(sql, "SELECT 1 FROM memories AS m", scope, [version])):
        return {}
    counted = "SELECT COUNT(*) FROM (SELECT 1 FROM postings WHERE scope = ? AND term = ? LIMIT ?)"
    return {
        term: HeldTerm(frequency, sql.execute(counted, (scope, term, MANY_MEMORIES)).fetchone()[0])
        for term, frequency in terms_of(sql, scope, version).items()
    }


def _archived_postings(
    sql: sqlite3.Connection, scope: int, versions: Versions, terms: Collection[str]
) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for version, counts in _archived_terms(sql, scope, versions).items():
        for term in counts.keys() & terms:
            found.setdefault(term, []).append((version, counts[term]))
    return found


def _archived_terms(sql: sqlite3.Connection, scope: int, versions: Versions) -> dict[int, dict[str, int]]:
    with undamaged("the list of a former version's terms"):
        return {
            version: {str(term): int(count) for term, count in json.loads(terms).items()}
            for version, terms in _archived(sql, "terms", scope, versions.tolist())
        }


def _term_postings(
    table: npt.NDArray[np.int64], held: Versions | None, allowed: Versions | None
) -> TermPostings:
    """Of rows of versions and frequencies, in any order."""
    if (table[0, 1:] < table[0, :-1]).any():
        table = table[:, np.argsort(table[0], kind="stable")]
    if held is not None:
        table = table[:, np.isin(table[0], held)]
    versions, frequencies = table if allowed is None else table[:, np.isin(table[0], allowed)]
    return TermPostings(table.shape[1], versions, frequencies)


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
    with undamaged("the session, speaker or time of a memory"):
        found = _held_outline(sql, scope, at, cache)
    if not where:
        return found
    return replace(found, matches=np.isin(found.versions, matching_versions(sql, scope, where, at)))


def _held_outline(sql: sqlite3.Connection, scope: int, at: Moment, cache: Outlines | None) -> Outline:
    if at.as_of is not None or cache is None:
        return Outline.read(_outline_rows(sql, select_current(scope, None, at)))

    def load(after: int) -> list[OutlineRow]:
        clause = "m.scope = ? AND m.current = 1 AND m.version > ?"
        return _outline_rows(sql, Clause(clause, [scope, after]))

    found = cache.get(scope, load)
    # Of the cached ones, some may hold no longer, or have expired.
    held = selection(sql, scope, None, at)
    return found if held is None else found.of(np.isin(found.versions, held))


def _outline_rows(sql: sqlite3.Connection, clause: Clause) -> list[OutlineRow]:
    return sql.execute(
        "SELECT m.version, m.session, m.role, COALESCE(m.occurred_at, m.created_at), m.length"  # noqa: S608 -- bound
        f" FROM memories AS m WHERE {clause.sql} ORDER BY m.version",
        clause.parameters,
    ).fetchall()
