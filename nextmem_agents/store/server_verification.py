"""Walking every record of a collection: payloads, rows, and whether the index reaches each vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nextmem_agents.errors import StoreError
from nextmem_agents.store import tables
from nextmem_agents.store.records import Check, Damage, Progress, Record, Report
from nextmem_agents.store.server_connection import Collection, Row
from nextmem_agents.store.server_rows import CHUNK, all_of, read_written, vectors_of
from nextmem_agents.store.server_sharing import Shared

PAGE = 500

Payloads = Callable[[str, Mapping[int, Record]], dict[int, list[bytes]]]


def verify(
    shared: Shared,
    scopes: Sequence[str],
    payloads: Payloads,
    check: Check,
    progress: Progress | None,
    mend: bool,
) -> Report:
    """See ``Store.verify``.

    Args:
        scopes: those that have rows.
        payloads: reads the payloads of records of a scope.
        mend: write vectors that the index does not reach to it once more.
    """
    damaged: list[Damage] = []
    n_memories = n_versions = n_chunks = missing = lost = 0
    total = sum(len(shared.collection(name).ids(_chunks_of(name))) for name in scopes)
    for name in scopes:
        with shared.mutex:
            shared.sync(name, writable=mend)
            with shared.replica.reading(name) as (sql, key):
                versions = [] if key is None else tables.kept_versions(sql, key)
                n_memories += 0 if key is None else len(tables.matching_ids(sql, key, None))
        collection = shared.collection(name)
        damaged += _unreadable(collection, name, set(versions), shared.codec.dim)
        for start in range(0, len(versions), PAGE):
            with shared.mutex, shared.replica.reading(name) as (sql, key):
                page = versions[start : start + PAGE]
                records = {} if key is None else tables.records(sql, key, page)
            stored = payloads(name, records)
            for version, record in records.items():
                chunks = stored.get(version, [])
                reason = check(name, record, chunks)
                if len(chunks) != record.n_chunks:
                    reason = f"{len(chunks)} of its {record.n_chunks} chunks are there"
                if reason is not None:
                    damaged.append(Damage(name, record.id, version, reason))
                n_versions += 1
                n_chunks += len(chunks)
            if progress is not None:
                progress(n_chunks, max(total, n_chunks))
        unreached = _unreached(collection, name)
        missing += len(unreached)
        if unreached and mend:
            collection.reindex(
                [row for row in collection.get(unreached, vectors=True).values() if _has_vector(row)]
            )
            lost += len(_unreached(collection, name))
        elif unreached:
            lost += len(unreached)
    return Report(
        n_memories,
        n_versions,
        n_chunks,
        tuple(damaged),
        index_missing=missing,
        repaired=lost == 0,
    )


def _chunks_of(scope: str) -> dict[str, object]:
    return {"$and": [all_of(scope), {"kind": CHUNK}]}


def _has_vector(row: Row) -> bool:
    return row.vector is not None


def _unreadable(collection: Collection, scope: str, known: set[int], dim: int) -> list[Damage]:
    """The memories that cannot even be listed, because their chunk 0 does not read."""
    damaged = []
    for row in collection.rows({"$and": [all_of(scope), {"kind": CHUNK}, {"chunk": 0}]}):
        version = row.metadata.get("version")
        if version in known:
            continue
        try:
            read_written(row, vectors_of({}, 1, dim))
        except StoreError as error:
            damaged.append(Damage(scope, row.id, version if isinstance(version, int) else 0, str(error)))
    return damaged


def _unreached(collection: Collection, scope: str) -> list[str]:
    """The chunks of a scope that a search for everything does not find."""
    ids = collection.ids(_chunks_of(scope))
    if not ids:
        return []
    some = collection.get(ids[:1], vectors=True)[ids[0]].vector if ids else None
    if some is None:
        return ids
    reached = set(collection.nearest(some, len(ids), _chunks_of(scope)))
    return [id_ for id_ in ids if id_ not in reached]
