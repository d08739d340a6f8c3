"""Reading ``records.sqlite3``: each statement takes the connection of a transaction and one scope's key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import DamagedRecord, MemoryNotFound, NextMemError
from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.filters import select_current, select_kept, unexpired
from nextmem_agents.store.records import Record, Where

COLUMNS = (
    "m.version, m.id, m.session, m.agent, m.role, m.occurred_at, m.created_at, m.updated_at, m.metadata, m.n_chunks,"
    " m.valid_from, m.valid_to, m.expires_at, m.importance, m.written_by, m.derived_from, m.supersedes, m.digest"
)
BATCH = 500
"""Ids or versions per statement."""

Versions = npt.NDArray[np.int64]
Item = TypeVar("Item")


def scope_key(sql: sqlite3.Connection, scope: str) -> int | None:
    """The integer that stands for a scope, or None while nothing was written to it."""
    row = sql.execute("SELECT scope FROM scopes WHERE name = ?", (scope,)).fetchone()
    return None if row is None else int(row[0])


def make_scope(sql: sqlite3.Connection, scope: str) -> int:
    """The integer that stands for a scope, given out now if there is none."""
    key = scope_key(sql, scope)
    if key is None:
        key = sql.execute("INSERT INTO scopes (name) VALUES (?)", (scope,)).lastrowid
        assert key is not None  # noqa: S101 -- an INSERT of one row has one
    return key


def scope_names(sql: sqlite3.Connection) -> list[str]:
    """All scopes that hold a memory which has not expired, sorted."""
    now = moment().now
    return [
        name
        for (name,) in sql.execute(
            "SELECT name FROM scopes AS s WHERE EXISTS (SELECT 1 FROM memories AS m WHERE m.scope = s.scope"
            " AND (m.expires_at IS NULL OR m.expires_at > ?)) ORDER BY name",
            (now,),
        )
    ]


def current_versions(
    sql: sqlite3.Connection, scope: int | None, name: str, ids: Sequence[str], at: Moment | None = None
) -> list[int]:
    """The current version of each id, in order; ``MemoryNotFound`` names the first that does not exist."""
    found: dict[str, int] = {}
    alive = unexpired(at or moment())
    for batch in batches(list(dict.fromkeys(ids))):
        marks = ",".join("?" * len(batch))
        found.update(
            sql.execute(
                f"SELECT m.id, m.version FROM memories AS m WHERE m.scope = ? AND m.current = 1 AND m.id IN ({marks})"  # noqa: S608 -- marks
                f" AND {alive.sql}",
                (scope, *batch, *alive.parameters),
            )
        )
    for id_ in ids:
        if id_ not in found:
            raise MemoryNotFound(f"there is no memory {id_!r} in the scope {name!r}")
    return [found[id_] for id_ in ids]


def matching_ids(
    sql: sqlite3.Connection, scope: int, where: Where | None, at: Moment | None = None
) -> list[str]:
    """The ids of the memories that match, those that hold no longer included; of all without a filter."""
    clause = select_kept(scope, where, at)
    rows = sql.execute(f"SELECT m.id FROM memories AS m WHERE {clause.sql}", clause.parameters)  # noqa: S608 -- bound
    return [id_ for (id_,) in rows]


def matching_versions(
    sql: sqlite3.Connection, scope: int, where: Where | None = None, at: Moment | None = None
) -> Versions:
    """``[n]`` int64: the versions that hold and match, ascending."""
    clause = select_current(scope, where, at)
    rows = sql.execute(
        f"SELECT m.version FROM memories AS m WHERE {clause.sql} ORDER BY m.version",  # noqa: S608 -- bound
        clause.parameters,
    )
    return np.fromiter((version for (version,) in rows), dtype=np.int64)


def selection(
    sql: sqlite3.Connection, scope: int, where: Where | None = None, at: Moment | None = None
) -> Versions | None:
    """As :func:`matching_versions`, or None where that would be every memory with a vector or postings."""
    at = at or moment()
    if where or at.as_of is not None:
        return matching_versions(sql, scope, where, at)
    ended = sql.execute(
        "SELECT 1 FROM memories WHERE scope = ? AND (valid_to IS NOT NULL OR expires_at IS NOT NULL)"
        " AND current = 1 AND (valid_to <= ? OR expires_at <= ?) LIMIT 1",
        (scope, at.now, at.now),
    ).fetchone()
    return None if ended is None else matching_versions(sql, scope, None, at)


def listed_versions(
    sql: sqlite3.Connection,
    scope: int | None,
    name: str,
    where: Where | None = None,
    newest_first: bool = False,
    limit: int | None = None,
    after: str | int | None = None,
    at: Moment | None = None,
) -> list[int]:
    """The versions of one page of a list; ``MemoryNotFound`` if the memory ``after`` which it begins is unknown."""
    at = at or moment()
    last = after if isinstance(after, int) else None
    if isinstance(after, str):
        [last] = current_versions(sql, scope, name, [after], at)
    if scope is None:
        return []
    versions = matching_versions(sql, scope, where, at)
    if last is not None:
        if at.as_of is not None and isinstance(after, str):  # the page before showed the version of that time
            clause = select_current(scope, {"id": after}, at)
            rows = sql.execute(f"SELECT m.version FROM memories AS m WHERE {clause.sql}", clause.parameters)  # noqa: S608
            last = max((version for (version,) in rows), default=last)
        versions = versions[versions < last] if newest_first else versions[versions > last]
    return [int(version) for version in (versions[::-1] if newest_first else versions)[:limit]]


def records(
    sql: sqlite3.Connection, scope: int, versions: Sequence[int], at: Moment | None = None
) -> dict[int, Record]:
    """Records of this scope by version, old versions included."""
    found = {}
    for row in select_versions(sql, f"SELECT {COLUMNS} FROM memories AS m", scope, versions, at):  # noqa: S608
        found[row[0]] = _record(row)
    return found


def select_versions(
    sql: sqlite3.Connection,
    select: str,
    scope: int,
    versions: Sequence[int],
    at: Moment | None = None,
    order: str = "",
) -> Iterator[tuple[Any, ...]]:
    """Rows of the memories of these versions, of this scope and unexpired; ``select`` names them ``m``."""
    alive = unexpired(at or moment())
    for batch in batches(versions):
        marks = ",".join("?" * len(batch))
        yield from sql.execute(
            f"{select} WHERE m.scope = ? AND m.version IN ({marks}) AND {alive.sql} {order}",
            (scope, *batch, *alive.parameters),
        )


def history(sql: sqlite3.Connection, scope: int, id_: str, at: Moment | None = None) -> list[Record]:
    """All versions of one memory, oldest first."""
    alive = unexpired(at or moment())
    rows = sql.execute(
        f"SELECT {COLUMNS} FROM memories AS m WHERE m.scope = ? AND m.id = ? AND {alive.sql} ORDER BY m.version",  # noqa: S608 -- constants
        (scope, id_, *alive.parameters),
    )
    return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> Record:
    (
        version,
        id_,
        session,
        agent,
        role,
        occurred,
        created,
        updated,
        metadata,
        n_chunks,
        begins,
        ends,
        expires,
    ) = row[:13]
    importance, *words = row[13:]
    with undamaged(f"memory {id_!r:.80}, version {version},"):
        known = json.loads(metadata)
        for value, kind in ((id_, str), (n_chunks, int), (known, dict)):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r:.80} is no {kind.__name__}")
        for word in (session, agent, role, *words):
            if not isinstance(word, str | None):
                raise TypeError(f"{word!r:.80} is no text")
        if not isinstance(importance, float | None):
            raise TypeError(f"{importance!r:.80} is no importance")
        return Record(
            version,
            id_,
            session,
            agent,
            role,
            _datetime(occurred),
            _time(created),
            _time(updated),
            known,
            n_chunks,
            _time(begins),
            _datetime(ends),
            _datetime(expires),
            importance,
            *words,
        )


def _datetime(text: str | None) -> datetime | None:
    return None if text is None else _time(text)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r:.80} has no time zone")
    return time


@contextmanager
def undamaged(what: str) -> Iterator[None]:
    """Turn what the reading of stored values raises into ``DamagedRecord``: SQLite lets any value stand anywhere."""
    try:
        yield
    except NextMemError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedRecord(
            f"{what} is damaged in records.sqlite3: {error}. verify() lists what is; restore the folder from a copy, "
            "or give the memory up with forget()"
        ) from error


def payloads(
    sql: sqlite3.Connection, scope: int, versions: Sequence[int], at: Moment | None = None
) -> dict[int, list[bytes]]:
    """Payloads of this scope by version, in chunk order."""
    found: dict[int, list[bytes]] = {}
    rows = select_versions(
        sql,
        "SELECT p.version, p.payload FROM memories AS m CROSS JOIN payloads AS p"
        " ON p.scope = m.scope AND p.version = m.version",
        scope,
        versions,
        at,
        "ORDER BY p.version, p.chunk",
    )
    for version, payload in rows:
        found.setdefault(version, []).append(payload)
    return found


def table_sizes(sql: sqlite3.Connection) -> dict[str, int]:
    """Bytes of the pages of each table with its indices: payloads, vectors, and postings as ``lexical``."""
    parts = {"payloads": "payloads", "vectors": "vectors", "lexical": "postings"}
    try:
        return {
            part: sql.execute(
                "SELECT TOTAL(pgsize) FROM dbstat WHERE aggregate = TRUE"
                " AND name IN (SELECT name FROM sqlite_master WHERE tbl_name = ?)",
                (table,),
            ).fetchone()[0]
            for part, table in parts.items()
        }
    except sqlite3.OperationalError:  # an SQLite built without dbstat: the bytes of the contents, then
        contents = {"payloads": "LENGTH(payload)", "vectors": "LENGTH(vector)", "lexical": "LENGTH(term) + 8"}
        return {
            part: sql.execute(f"SELECT TOTAL({contents[part]}) FROM {table}").fetchone()[0]  # noqa: S608 -- constants
            for part, table in parts.items()
        }


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Parts of at most ``BATCH`` items."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
