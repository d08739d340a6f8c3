"""The statements over ``records.sqlite3``; each takes the connection of a transaction and one scope's key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import MemoryNotFound
from nextmem_agents.store.checks import metadata_to_text, time_to_text
from nextmem_agents.store.filters import kind_of, select_current
from nextmem_agents.store.records import NewRecord, Postings, Record, TermPostings, Where

COLUMNS = "version, id, session, agent, role, occurred_at, created_at, updated_at, metadata, n_chunks"
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
    sql.execute("INSERT INTO scopes (name) VALUES (?) ON CONFLICT DO NOTHING", (scope,))
    key = scope_key(sql, scope)
    assert key is not None  # noqa: S101 -- inserted on the line above
    return key


def scope_names(sql: sqlite3.Connection) -> list[str]:
    """All scopes that hold a memory, sorted."""
    return [name for (name,) in sql.execute("SELECT name FROM scopes ORDER BY name")]


def insert(sql: sqlite3.Connection, scope: int, record: NewRecord, now: datetime) -> int:
    """Write a checked record as the current version of its memory; returns the version."""
    written = time_to_text(now)
    created = _retire(sql, scope, record.id) or written
    length = sum(record.terms.values())
    cursor = sql.execute(
        "INSERT INTO memories (scope, id, current, session, agent, role, occurred_at, created_at, updated_at,"
        " metadata, n_chunks, length) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            scope,
            record.id,
            record.session,
            record.agent,
            record.role,
            None if record.occurred_at is None else time_to_text(record.occurred_at),
            created,
            written,
            metadata_to_text(record.metadata),
            len(record.payloads),
            length,
        ),
    )
    version = cursor.lastrowid
    assert version is not None  # noqa: S101 -- an INSERT of one row has one
    sql.executemany(
        "INSERT INTO payloads (scope, version, chunk, payload) VALUES (?, ?, ?, ?)",
        [(scope, version, chunk, payload) for chunk, payload in enumerate(record.payloads)],
    )
    sql.executemany(
        "INSERT INTO vectors (scope, version, chunk, indexed, vector) VALUES (?, ?, ?, 0, ?)",
        [
            (scope, version, chunk, vector.tobytes())
            for chunk, vector in enumerate(record.vectors.astype("<f4"))
        ],
    )
    sql.executemany(
        "INSERT INTO attributes (scope, version, key, kind, value) VALUES (?, ?, ?, ?, ?)",
        [(scope, version, key, kind_of(value), value) for key, value in record.metadata.items()],
    )
    sql.executemany(
        "INSERT INTO postings (scope, version, term, frequency, length) VALUES (?, ?, ?, ?, ?)",
        [(scope, version, term, frequency, length) for term, frequency in record.terms.items()],
    )
    return version


def _retire(sql: sqlite3.Connection, scope: int, id_: str) -> str | None:
    """Take the current version off every read path but history; returns when the memory was created."""
    row = sql.execute(
        "SELECT version, n_chunks, created_at FROM memories WHERE scope = ? AND id = ? AND current = 1",
        (scope, id_),
    ).fetchone()
    if row is None:
        return None
    version, n_chunks, created = row
    sql.execute("UPDATE memories SET current = 0 WHERE scope = ? AND version = ?", (scope, version))
    for table in ("vectors", "attributes", "postings"):
        sql.execute(f"DELETE FROM {table} WHERE scope = ? AND version = ?", (scope, version))  # noqa: S608 -- constants
    sql.execute("INSERT INTO removals (version, n_chunks) VALUES (?, ?)", (version, n_chunks))
    return str(created)


def forget(sql: sqlite3.Connection, scope: int | None, name: str, ids: Sequence[str]) -> int:
    """Delete these memories with all their versions; returns their number, or raises ``MemoryNotFound``."""
    current_versions(sql, scope, name, ids)
    unique = list(dict.fromkeys(ids))
    for batch in _batches(unique):
        chosen = f"scope = ? AND id IN ({','.join('?' * len(batch))})"
        sql.execute(
            f"INSERT INTO removals (version, n_chunks) SELECT version, n_chunks FROM memories"  # noqa: S608 -- marks
            f" WHERE {chosen} AND current = 1",
            (scope, *batch),
        )
        sql.execute(f"DELETE FROM memories WHERE {chosen}", (scope, *batch))  # noqa: S608 -- marks; the rest cascades
    # The name of a scope can be a person's: it goes with its last memory.
    sql.execute(
        "DELETE FROM scopes WHERE scope = ?"
        " AND NOT EXISTS (SELECT 1 FROM memories WHERE memories.scope = scopes.scope)",
        (scope,),
    )
    return len(unique)


def current_versions(sql: sqlite3.Connection, scope: int | None, name: str, ids: Sequence[str]) -> list[int]:
    """The current version of each id, in order; ``MemoryNotFound`` names the first that does not exist."""
    found: dict[str, int] = {}
    for batch in _batches(list(dict.fromkeys(ids))):
        marks = ",".join("?" * len(batch))
        found.update(
            sql.execute(
                f"SELECT id, version FROM memories WHERE scope = ? AND current = 1 AND id IN ({marks})",  # noqa: S608 -- marks
                (scope, *batch),
            )
        )
    for id_ in ids:
        if id_ not in found:
            raise MemoryNotFound(f"there is no memory {id_!r} in the scope {name!r}")
    return [found[id_] for id_ in ids]


def matching_ids(sql: sqlite3.Connection, scope: int, where: Where | None) -> list[str]:
    """The ids of the memories that match; of all without a filter."""
    clause = select_current(scope, where)
    rows = sql.execute(f"SELECT m.id FROM memories AS m WHERE {clause.sql}", clause.parameters)  # noqa: S608 -- bound
    return [id_ for (id_,) in rows]


def matching_versions(sql: sqlite3.Connection, scope: int, where: Where | None = None) -> Versions:
    """``[n]`` int64: the current versions that match, ascending."""
    clause = select_current(scope, where)
    rows = sql.execute(
        f"SELECT m.version FROM memories AS m WHERE {clause.sql} ORDER BY m.version",  # noqa: S608 -- bound
        clause.parameters,
    )
    return np.fromiter((version for (version,) in rows), dtype=np.int64)


def records(sql: sqlite3.Connection, scope: int, versions: Sequence[int]) -> dict[int, Record]:
    """Records of this scope by version, old versions included."""
    found = {}
    for batch in _batches(versions):
        marks = ",".join("?" * len(batch))
        for row in sql.execute(
            f"SELECT {COLUMNS} FROM memories WHERE scope = ? AND version IN ({marks})",  # noqa: S608 -- marks
            (scope, *batch),
        ):
            found[row[0]] = _record(row)
    return found


def history(sql: sqlite3.Connection, scope: int, id_: str) -> list[Record]:
    """All versions of one memory, oldest first."""
    rows = sql.execute(
        f"SELECT {COLUMNS} FROM memories WHERE scope = ? AND id = ? ORDER BY version",  # noqa: S608 -- constants
        (scope, id_),
    )
    return [_record(row) for row in rows]


def _record(row: tuple[Any, ...]) -> Record:
    version, id_, session, agent, role, occurred, created, updated, metadata, n_chunks = row
    return Record(
        version=version,
        id=id_,
        session=session,
        agent=agent,
        role=role,
        occurred_at=None if occurred is None else datetime.fromisoformat(occurred),
        created_at=datetime.fromisoformat(created),
        updated_at=datetime.fromisoformat(updated),
        metadata=json.loads(metadata),
        n_chunks=n_chunks,
    )


def payloads(sql: sqlite3.Connection, scope: int, versions: Sequence[int]) -> dict[int, list[bytes]]:
    """Payloads of this scope by version, in chunk order."""
    found: dict[int, list[bytes]] = {}
    for batch in _batches(versions):
        marks = ",".join("?" * len(batch))
        for version, payload in sql.execute(
            f"SELECT version, payload FROM payloads WHERE scope = ? AND version IN ({marks})"  # noqa: S608 -- marks
            " ORDER BY version, chunk",
            (scope, *batch),
        ):
            found.setdefault(version, []).append(payload)
    return found


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
            for batch in _batches(versions.tolist())
            for row in sql.execute(
                f"{select} AND version IN ({','.join('?' * len(batch))}) {order}", (scope, *batch)
            )
        )
    while rows_of_block := list(islice(rows, block)):
        values = np.frombuffer(b"".join(row[1] for row in rows_of_block), dtype="<f4").reshape(-1, dim)
        yield np.array([row[0] for row in rows_of_block], dtype=np.int64), values


def exceeds(sql: sqlite3.Connection, scope: int, limit: int) -> bool:
    """Whether the scope has more than ``limit`` vectors, without counting on beyond that."""
    (found,) = sql.execute(
        "SELECT COUNT(*) FROM (SELECT 1 FROM vectors WHERE scope = ? LIMIT ?)", (scope, limit + 1)
    ).fetchone()
    return int(found) > limit


def lengths(sql: sqlite3.Connection, scope: int) -> tuple[int, float]:
    """The number of current memories in the scope and their mean length in terms."""
    n, total = sql.execute(
        "SELECT COUNT(*), TOTAL(length) FROM memories WHERE scope = ? AND current = 1", (scope,)
    ).fetchone()
    return n, (total / n if n else 0.0)


def postings(
    sql: sqlite3.Connection, scope: int | None, terms: Sequence[str], where: Where | None
) -> Postings:
    """The lexical index's answer; without a scope, that of an empty one."""
    if scope is None:
        return Postings(0, 0.0, {term: _term_postings([], None) for term in terms})
    allowed = matching_versions(sql, scope, where) if where else None
    n_memories, average = lengths(sql, scope)
    found = {}
    for term in terms:
        rows = sql.execute(
            "SELECT version, frequency, length FROM postings WHERE scope = ? AND term = ? ORDER BY version",
            (scope, term),
        ).fetchall()
        found[term] = _term_postings(rows, allowed)
    return Postings(n_memories, average, found)


def _term_postings(rows: list[tuple[int, int, int]], allowed: Versions | None) -> TermPostings:
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    kept = table if allowed is None else table[np.isin(table[:, 0], allowed)]
    versions, frequencies, sizes = np.ascontiguousarray(kept.T)
    return TermPostings(len(rows), versions, frequencies, sizes)


def neighbours(
    sql: sqlite3.Connection, scope: int, versions: Sequence[int], where: Where | None
) -> dict[int, list[int]]:
    """The current memories directly before and after each version in its session, of those that match."""
    allowed = set(matching_versions(sql, scope, where).tolist()) if where else None
    found: dict[int, list[int]] = {}
    for version in versions:
        session = sql.execute(
            "SELECT session FROM memories WHERE scope = ? AND version = ? AND current = 1", (scope, version)
        ).fetchone()
        if session is None or session[0] is None:
            continue
        beside = "SELECT {}(version) FROM memories WHERE scope = ? AND session = ? AND current = 1 AND version {} ?"
        near = [
            sql.execute(beside.format(*side), (scope, session[0], version)).fetchone()[0]
            for side in (("MAX", "<"), ("MIN", ">"))
        ]
        kept = [v for v in near if v is not None and (allowed is None or v in allowed)]
        if kept:
            found[version] = kept
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


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
