"""Erasing with a proof, and verifying: the slow, thorough work over a whole embedded store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from nextmem_agents.errors import DamagedRecord, StoreError
from nextmem_agents.store import tables
from nextmem_agents.store.clock import moment, utc_now
from nextmem_agents.store.exact import unit
from nextmem_agents.store.folder import Folder
from nextmem_agents.store.halves import BYTES, from_halves
from nextmem_agents.store.records import Check, Damage, Progress, Receipt, Record, Report
from nextmem_agents.store.scanning import find_bytes_apart

PAGE = 200
BEYOND = (
    "copies outside the folder (backups, exports, file system snapshots)",
    "blocks that the disk or the file system has given free but not overwritten",
    "the memory and the swap space of running processes",
)
"""What reading the files of a folder cannot prove."""


def erase(folder: Folder, name: str, on_deleted: Callable[[], object] | None = None) -> Receipt:
    """Delete a scope and its bytes; see ``EmbeddedStore.erase``.

    The first transaction takes the scope off every read path and notes that its bytes are still to go; whatever
    happens after it, the next opening goes on from there.
    """
    with folder.database.transaction(write=True) as sql:
        key = tables.scope_key(sql, name)
        needles: set[bytes] = set()
        memories = versions = chunks = 0
        if key is not None:
            needles = _bytes_of(sql, key, folder.codec.dim)
            memories = len(tables.matching_ids(sql, key, None))
            versions, chunks = sql.execute(
                "SELECT COUNT(*), TOTAL(n_chunks) FROM memories WHERE scope = ?", (key,)
            ).fetchone()
            sql.execute("DELETE FROM memories WHERE scope = ?", (key,))
            sql.execute("DELETE FROM scopes WHERE scope = ?", (key,))
        sql.execute("INSERT OR IGNORE INTO erasures (scope) VALUES (?)", (key or 0,))
    if on_deleted is not None:
        on_deleted()
    folder.remove_bytes()
    left = set(needles)
    files: list[Path] = []
    if folder.path is not None:
        files = sorted(file for file in folder.path.rglob("*") if file.is_file())
        left = find_bytes_apart(files, needles)
    with folder.database.transaction() as sql:
        # The same words of another scope have the same vector, and may have the same bytes in their payload.
        left = {needle for needle in left if folder.path is not None and not _is_elsewhere(sql, needle)}
    if left:
        raise StoreError(
            f"{len(left)} pieces of the erased scope's bytes are still in the files of {folder.path}. The scope is on "
            "no read path any more; close all other processes that read the folder and call erase() again"
        )
    return Receipt(
        scope=name,
        memories=memories,
        versions=int(versions),
        chunks=int(chunks),
        erased_at=utc_now(),
        proven=True,
        files=len(files),
        bytes_read=sum(file.stat().st_size for file in files if file.exists()),
        not_proven=BEYOND,
    )


def _bytes_of(sql: sqlite3.Connection, key: int, dim: int) -> set[bytes]:
    """A piece of each payload and vector of a scope, as SQLite and as Chroma keep them."""
    needles: set[bytes] = set()
    for (payload,) in sql.execute("SELECT payload FROM payloads WHERE scope = ?", (key,)):
        needles.update(_pieces(payload))
    stored = [v for (v,) in sql.execute("SELECT vector FROM vectors WHERE scope = ?", (key,))]
    stored += [v for (v,) in sql.execute("SELECT vectors FROM archive WHERE scope = ?", (key,))]
    for vectors in stored:
        for row in np.frombuffer(vectors, dtype="<f2").reshape(-1, dim):
            needles.update(_pieces(row.tobytes()))
            needles.update(_pieces(_in_chroma(row.tobytes())))
    return needles


def _in_chroma(stored: bytes) -> bytes:
    """A vector's bytes as the index keeps them."""
    return unit(from_halves(stored, len(stored) // BYTES)).astype("<f4").tobytes()


PIECE = 24
"""Bytes of a piece: long enough that no other data has them by chance."""


def _pieces(data: bytes) -> Iterable[bytes]:
    """The last bytes (a payload's are its keyed tag) and the middle ones, unless they are nearly all alike."""
    middle = max(0, (len(data) - PIECE) // 2)
    for piece in (data[-PIECE:], data[middle : middle + PIECE]):
        if len(piece) == PIECE and len(set(piece)) >= PIECE // 3:
            yield piece


def _is_elsewhere(sql: sqlite3.Connection, needle: bytes) -> bool:
    queries = (
        "SELECT 1 FROM payloads WHERE INSTR(payload, ?) LIMIT 1",
        "SELECT 1 FROM vectors WHERE INSTR(vector, ?) LIMIT 1",
        "SELECT 1 FROM archive WHERE INSTR(vectors, ?) LIMIT 1",
    )
    return any(sql.execute(query, (needle,)).fetchone() for query in queries) or _is_unit_of_another(
        sql, needle
    )


def _is_unit_of_another(sql: sqlite3.Connection, needle: bytes) -> bool:
    """Whether a vector of another scope has the needle when it is scaled to length 1, as Chroma keeps it."""
    return any(needle in _in_chroma(vector) for (vector,) in sql.execute("SELECT vector FROM vectors"))


def verify(folder: Folder, check: Check, progress: Progress | None) -> Report:
    """Look at every version, payload and vector; see ``EmbeddedStore.verify``."""
    damaged = [Damage("", "", 0, complaint) for complaint in folder.database.complaints()]
    with folder.database.transaction() as sql:
        scopes = dict(sql.execute("SELECT scope, name FROM scopes").fetchall())
        keyed = {key: tables.kept_versions(sql, key) for key in scopes}
        n_memories = sum(len(tables.matching_ids(sql, key, None)) for key in scopes)
    total, done, n_chunks = sum(map(len, keyed.values())), 0, 0
    for key, versions in keyed.items():
        for start in range(0, len(versions), PAGE):
            page = versions[start : start + PAGE]
            chunks, found = _verify_page(folder, key, scopes[key], page, check)
            n_chunks += chunks
            damaged += found
            done += len(page)
            if progress is not None:
                progress(done, total)
    missing, extra, wrong, repaired = (0, 0, 0, False) if folder.index is None else folder.index.compare()
    return Report(n_memories, total, n_chunks, tuple(damaged), missing, extra, wrong, repaired)


def _verify_page(
    folder: Folder, key: int, name: str, versions: list[int], check: Check
) -> tuple[int, list[Damage]]:
    damaged = []
    n_chunks = 0
    at = moment()
    with folder.database.transaction() as sql:
        records: dict[int, Record] = {}
        for version in versions:
            try:
                records |= tables.records(sql, key, [version], at)
            except DamagedRecord as error:
                damaged.append(Damage(name, f"version {version}", version, str(error)))
        payloads = tables.payloads(sql, key, versions, at)
        for version, record in records.items():
            stored = payloads.get(version, [])
            n_chunks += len(stored)
            if len(stored) != record.n_chunks:
                reason: str | None = f"{len(stored)} of its {record.n_chunks} chunks are there"
            else:
                reason = check(name, record, stored)
                reason = reason or _vectors_fault(sql, key, version, record.n_chunks, folder)
            if reason:
                damaged.append(Damage(name, record.id, version, reason))
    return n_chunks, damaged


def _vectors_fault(
    sql: sqlite3.Connection, key: int, version: int, n_chunks: int, folder: Folder
) -> str | None:
    """What is wrong with the vectors of a version, of which a current and a former one keep them elsewhere."""
    data = b"".join(
        stored if isinstance(stored, bytes) else b""
        for (stored,) in sql.execute(
            "SELECT vector FROM vectors WHERE scope = ? AND version = ? UNION ALL"
            " SELECT vectors FROM archive WHERE scope = ? AND version = ?",
            (key, version, key, version),
        )
    )
    if len(data) != BYTES * n_chunks * folder.codec.dim:
        return f"its vectors have {len(data)} bytes, not {BYTES * n_chunks * folder.codec.dim}"
    if not np.isfinite(np.frombuffer(data, dtype="<f2")).all():
        return "a vector of it is not finite"
    return None
