"""Writing ``records.sqlite3``: each statement takes the connection of a write transaction and one scope's key."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from nextmem_agents.errors import Overtaken
from nextmem_agents.store.checks import metadata_to_text, time_to_text
from nextmem_agents.store.clock import Moment, moment
from nextmem_agents.store.filters import kind_of, select_current
from nextmem_agents.store.halves import from_halves, readable, to_halves
from nextmem_agents.store.records import Access, NewRecord
from nextmem_agents.store.rows import batches, current_versions, payloads, records, undamaged
from nextmem_agents.store.searches import terms_of


class Inserted(NamedTuple):
    """A version that was written, and whether it took the place of another."""

    version: int
    replaced: bool


def insert(
    sql: sqlite3.Connection, scope: int, record: NewRecord, now: datetime, version: int | None = None
) -> Inserted:
    """Write a checked record as the current version of its memory.

    Nothing else changes a version that is there: its former ones end where this one begins, and so does the memory
    that it supersedes; an expired memory of the same id makes way.

    Args:
        version: the next free one, or one that the caller gives, above all others of this memory.
    """
    written = time_to_text(record.updated_at or now)
    begins = time_to_text(record.valid_from) if record.valid_from else written
    expires = _time(record.expires_at)
    replaced, created = _retire(sql, scope, record.id, begins, expires, time_to_text(now))
    if record.supersedes is not None and record.supersedes != record.id:
        sql.execute(
            "UPDATE memories SET valid_to = MIN(COALESCE(valid_to, ?), ?) WHERE scope = ? AND id = ?",
            (begins, begins, scope, record.supersedes),
        )
    length = sum(record.terms.values())
    values = {
        "version": version,
        "scope": scope,
        "id": record.id,
        "current": 1,
        "session": record.session,
        "agent": record.agent,
        "role": record.role,
        "occurred_at": _time(record.occurred_at),
        "created_at": created or _time(record.created_at) or written,
        "updated_at": written,
        "metadata": metadata_to_text(record.metadata),
        "n_chunks": len(record.payloads),
        "length": length,
        "valid_from": begins,
        "valid_to": _time(record.valid_to),
        "expires_at": expires,
        "importance": record.importance,
        "written_by": record.written_by,
        "derived_from": record.derived_from,
        "supersedes": record.supersedes,
        "digest": record.digest,
    }
    cursor = sql.execute(
        f"INSERT INTO memories ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608 -- names
        list(values.values()),
    )
    version = cursor.lastrowid
    assert version is not None  # noqa: S101 -- an INSERT of one row has one
    if created:
        sql.execute(
            "UPDATE accesses SET version = ? WHERE scope = ? AND version IN"
            " (SELECT version FROM memories WHERE scope = ? AND id = ?)",
            (version, scope, scope, record.id),
        )
    sql.executemany(
        "INSERT INTO payloads (scope, version, chunk, payload) VALUES (?, ?, ?, ?)",
        [(scope, version, chunk, payload) for chunk, payload in enumerate(record.payloads)],
    )
    sql.executemany(
        "INSERT INTO vectors (scope, version, chunk, indexed, vector) VALUES (?, ?, ?, 0, ?)",
        [(scope, version, chunk, vector.tobytes()) for chunk, vector in enumerate(to_halves(record.vectors))],
    )
    sql.executemany(
        "INSERT INTO attributes (scope, version, key, kind, value) VALUES (?, ?, ?, ?, ?)",
        [(scope, version, key, kind_of(value), value) for key, value in record.metadata.items()],
    )
    sql.executemany(
        "INSERT INTO postings (scope, version, term, frequency, length) VALUES (?, ?, ?, ?, ?)",
        [(scope, version, term, frequency, length) for term, frequency in record.terms.items()],
    )
    return Inserted(version, replaced)


def _time(value: datetime | None) -> str | None:
    return None if value is None else time_to_text(value)


def _retire(
    sql: sqlite3.Connection, scope: int, id_: str, ends: str, expires: str | None, now: str
) -> tuple[bool, str | None]:
    """Leave the current version to history and to questions about the past.

    Returns:
        Whether there was one, and when the memory was made if it goes on.
    """
    row = sql.execute(
        "SELECT version, created_at, expires_at FROM memories WHERE scope = ? AND id = ? AND current = 1",
        (scope, id_),
    ).fetchone()
    if row is None:
        return False, None
    version, created, expired = row
    _unlist(sql, "m.scope = ? AND m.version = ?", (scope, version))
    if expired is not None and expired <= now:
        sql.execute("DELETE FROM memories WHERE scope = ? AND id = ?", (scope, id_))
        return True, None
    # The new one may begin before the current one did, so that all end by then. A memory expires as one: its past is
    # not to outlive it.
    sql.execute(
        "UPDATE memories SET current = 0, valid_to = MIN(COALESCE(valid_to, ?), ?), expires_at = ?"
        " WHERE scope = ? AND id = ?",
        (ends, ends, expires, scope, id_),
    )
    _archive(sql, scope, version)
    return True, str(created)


def _unlist(sql: sqlite3.Connection, which: str, parameters: Sequence[object]) -> None:
    """Have the index drop what it holds of current memories ``m``; before they are deleted."""
    sql.execute(
        "INSERT OR IGNORE INTO removals (collection, version, n_chunks)"  # noqa: S608 -- constants and marks
        " SELECT m.scope * s.own, m.version, m.n_chunks FROM memories AS m JOIN scopes AS s ON s.scope = m.scope"
        f" WHERE {which} AND m.current = 1",
        parameters,
    )


def _archive(sql: sqlite3.Connection, scope: int, version: int) -> None:
    vectors_ = sql.execute(
        "SELECT vector FROM vectors WHERE scope = ? AND version = ? ORDER BY chunk", (scope, version)
    )
    counts = sql.execute(
        "SELECT term, frequency FROM postings WHERE scope = ? AND version = ?", (scope, version)
    )
    sql.execute(
        "INSERT INTO archive (scope, version, vectors, terms) VALUES (?, ?, ?, ?)",
        (
            scope,
            version,
            b"".join(v for (v,) in vectors_),
            json.dumps(dict(counts.fetchall()), ensure_ascii=False),
        ),
    )
    for table in ("vectors", "postings"):
        sql.execute(f"DELETE FROM {table} WHERE scope = ? AND version = ?", (scope, version))  # noqa: S608 -- constants


def forget(sql: sqlite3.Connection, scope: int | None, name: str, ids: Sequence[str]) -> int:
    """Delete these memories with all their versions; returns their number, or raises ``MemoryNotFound``."""
    current_versions(sql, scope, name, ids)
    unique = list(dict.fromkeys(ids))
    for batch in batches(unique):
        chosen = f"scope = ? AND id IN ({','.join('?' * len(batch))})"
        _unlist(sql, f"m.scope = ? AND m.id IN ({','.join('?' * len(batch))})", (scope, *batch))
        sql.execute(f"DELETE FROM memories WHERE {chosen}", (scope, *batch))  # noqa: S608 -- marks; the rest cascades
    # The name of a scope can be a person's: it goes with its last memory.
    sql.execute(
        "DELETE FROM scopes WHERE scope = ?"
        " AND NOT EXISTS (SELECT 1 FROM memories WHERE memories.scope = scopes.scope)",
        (scope,),
    )
    return len(unique)


def check_supersedes(sql: sqlite3.Connection, scope: int, name: str, records_: Sequence[NewRecord]) -> None:
    """Raise ``MemoryNotFound`` if a record supersedes what is neither there nor among the records before it.

    A record that comes from elsewhere, with the time of its writing, is let be: what it superseded may be gone.
    """
    seen: set[str] = set()
    for record in records_:
        other = record.supersedes
        if other is not None and record.updated_at is None and other not in seen:
            current_versions(sql, scope, name, [other])
        seen.add(record.id)


def check_former(
    sql: sqlite3.Connection, scope: int | None, name: str, records_: Sequence[NewRecord]
) -> None:
    """Raise where the version that a record is made from is not the current one: ``MemoryNotFound``, ``Overtaken``."""
    for record in records_:
        if record.former is not None and [record.former] != current_versions(sql, scope, name, [record.id]):
            raise Overtaken(f"memory {record.id!r} was changed by another write; read it again")


def repeat_of(sql: sqlite3.Connection, scope: int, record: NewRecord) -> str | None:
    """The id of a memory of the record's session with its digest, the earliest; None if there is none."""
    if record.digest is None:
        return None
    clause = select_current(scope)
    row = sql.execute(
        f"SELECT m.id FROM memories AS m WHERE {clause.sql} AND m.digest = ? AND m.session IS ?"  # noqa: S608 -- bound
        " ORDER BY m.version LIMIT 1",
        (*clause.parameters, record.digest, record.session),
    ).fetchone()
    return None if row is None else str(row[0])


def sweep(sql: sqlite3.Connection, now: str) -> int:
    """Delete every memory that has expired, in all scopes; returns how many."""
    expired = "expires_at IS NOT NULL AND expires_at <= ?"
    n = sql.execute(f"SELECT COUNT(*) FROM memories WHERE {expired} AND current = 1", (now,)).fetchone()[0]  # noqa: S608
    if n:
        _unlist(sql, expired, (now,))
        sql.execute(f"DELETE FROM memories WHERE {expired}", (now,))  # noqa: S608 -- constants
        drop_empty_scopes(sql)
    return int(n)


def drop_empty_scopes(sql: sqlite3.Connection) -> None:
    """Forget the names of scopes without a memory: such a name can be a person's."""
    sql.execute(
        "DELETE FROM scopes WHERE NOT EXISTS (SELECT 1 FROM memories AS m WHERE m.scope = scopes.scope)"
    )


def expire(sql: sqlite3.Connection, scope: int, times: Mapping[int, str], now: str) -> int:
    """Set when memories expire, by their current versions; others are let be. Returns how many it was set for."""
    n = 0
    for version, expires in times.items():
        n += (
            sql.execute(
                # A memory expires as one: its past is not to outlive it.
                "UPDATE memories SET expires_at = ? WHERE scope = ? AND id = (SELECT id FROM memories WHERE scope = ?"
                " AND version = ? AND current = 1 AND (expires_at IS NULL OR expires_at > ?))",
                (expires, scope, scope, version, now),
            ).rowcount
            > 0
        )
    return n


def touch(sql: sqlite3.Connection, scope: int, times: Mapping[int, tuple[int, str]]) -> None:
    """Add to how often versions were recalled: the number and the last time of each; unknown ones are let be."""
    sql.executemany(
        "INSERT INTO accesses (scope, version, count, last) SELECT scope, version, ?, ? FROM memories"
        " WHERE scope = ? AND version = ?"
        " ON CONFLICT DO UPDATE SET count = count + excluded.count, last = MAX(last, excluded.last)",
        [(count, last, scope, version) for version, (count, last) in times.items()],
    )


def accesses(sql: sqlite3.Connection, scope: int, versions: Sequence[int]) -> dict[int, Access]:
    """How often and when versions were recalled."""
    found = {}
    for batch in batches(versions):
        marks = ",".join("?" * len(batch))
        for version, count, last in sql.execute(
            f"SELECT version, count, last FROM accesses WHERE scope = ? AND version IN ({marks})",  # noqa: S608 -- marks
            (scope, *batch),
        ):
            with undamaged(f"the count of recalls of version {version}"):
                found[version] = Access(int(count), datetime.fromisoformat(last))
    return found


def kept_versions(sql: sqlite3.Connection, scope: int, at: Moment | None = None) -> list[int]:
    """All versions of a scope that have not expired, ascending."""
    rows = sql.execute(
        "SELECT version FROM memories WHERE scope = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY version",
        (scope, (at or moment()).now),
    )
    return [version for (version,) in rows]


def dump(
    sql: sqlite3.Connection, scope: int, dim: int, versions: Sequence[int]
) -> Iterator[tuple[int, NewRecord]]:
    """Versions as they were put, with the times at which they were; empty payloads for what has lost a chunk."""
    stored = payloads(sql, scope, versions)
    for version, record in sorted(records(sql, scope, versions).items()):
        archived = sql.execute(
            "SELECT vectors FROM archive WHERE scope = ? AND version = ?", (scope, version)
        ).fetchone()
        if archived is not None:
            with undamaged(f"the former version {version} of memory {record.id!r:.80}"):
                vectors = readable(archived[0], dim, None)
        else:
            rows = sql.execute(
                "SELECT vector FROM vectors WHERE scope = ? AND version = ? ORDER BY chunk", (scope, version)
            )
            vectors = b"".join(readable(vector, dim) for (vector,) in rows)
        whole = len(stored.get(version, [])) == record.n_chunks
        yield (
            version,
            NewRecord(
                id=record.id,
                payloads=stored[version] if whole else [b""] * record.n_chunks,
                vectors=from_halves(readable(vectors, dim, None) if vectors else b"", dim),
                terms=terms_of(sql, scope, version),
                session=record.session,
                agent=record.agent,
                role=record.role,
                occurred_at=record.occurred_at,
                metadata=record.metadata,
                expires_at=record.expires_at,
                valid_from=record.valid_from,
                valid_to=record.valid_to,
                importance=record.importance,
                written_by=record.written_by,
                derived_from=record.derived_from,
                supersedes=record.supersedes,
                digest=record.digest,
                created_at=record.created_at,
                updated_at=record.updated_at,
            ),
        )
