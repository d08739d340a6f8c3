"""How memories lie in a Chroma collection: the rows, and what is written in each.

==========  ============================  =====================================================================
kind        id                            metadata
==========  ============================  =====================================================================
chunk       ``{version}.{chunk}``         ``of`` (the scope), ``scope_id``, ``slot``, ``seq``, ``version``,
                                          ``chunk``, ``n_chunks``; chunk 0 has the ``record`` as JSON. The
                                          payload is the row's ``uri``, a data URI, which reads of metadata
                                          leave behind.
forgotten   ``forgotten.{scope}.{…}``     ``of``, ``slot``, ``seq``, and the ``versions`` that are to be gone
clock       ``clock.{scope}.{slot}``      ``clock`` (the scope's digest), ``scope_id``, ``slot``, ``seq``,
                                          ``token``, ``floor``
writer      ``writer.{slot}``             ``slot``, ``token``, ``renewed`` (seconds since 1970)
==========  ============================  =====================================================================

A writing process holds a *slot*, a small number of its own, and counts its writes to each scope in a clock row
that nobody else writes. A row counts only from the moment that its writer's clock has reached the row's ``seq``:
the request that moves the clock commits, so that a put of many requests is there as a whole or not at all. The
same clocks tell every process, by one small read, whether it has seen everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from nextmem_agents.errors import NewerFormat, StoreError
from nextmem_agents.store.checks import check_record, check_time, check_versions, time_to_text
from nextmem_agents.store.exact import Vectors
from nextmem_agents.store.records import NewRecord
from nextmem_agents.store.server_connection import Row

CHUNK: Final = "chunk"
FORGOTTEN: Final = "forgotten"
CLOCK: Final = "clock"
WRITER: Final = "writer"

VERSIONS_A_ROW: Final = 1_000
MISSING: Final = 16
"""So many chunks of a memory, and as many as are there, may be missing before its number of them is not believed."""

_APART = frozenset({"payloads", "vectors", "fold", "former"})
_TIMES = frozenset({"occurred_at", "created_at", "updated_at", "valid_from", "valid_to", "expires_at"})
_FIELDS = {field.name for field in fields(NewRecord)} - _APART


@dataclass(frozen=True)
class Stamp:
    """Whose write a row belongs to, and which of that writer's writes to the scope."""

    slot: int
    seq: int


@dataclass(frozen=True)
class Clock:
    """How far one writer has come in one scope.

    Attributes:
        seq: its last write that counts.
        token: drawn when the clock was made, so that one made anew is not taken for the old one.
        floor: whoever has not seen this write must load the scope afresh: what was forgotten up to it is no
            longer listed.
    """

    slot: int
    seq: int
    token: str
    floor: int = 0


@dataclass(frozen=True, eq=False)
class Written:
    """One version of a memory as it lies in the collection, without its payloads.

    Attributes:
        version: its number.
        record: as it was put, with empty payloads; vectors are ``[n_chunks, D]``, or ``[n_chunks, 0]`` where
            they were not asked for.
        at: when it was written.
        stamp: by which write.
    """

    version: int
    record: NewRecord
    at: datetime
    stamp: Stamp


def digest(scope: str) -> str:
    """A name for a scope that fits in an id and tells nobody whose it is: 32 hexadecimal digits."""
    return blake2b(scope.encode(), digest_size=16, person=b"nextmem scope").hexdigest()


def scope_id(scope: str) -> int:
    """A scope's digest as a 64-bit integer, by which a memory is found whose scope names it."""
    return int.from_bytes(bytes.fromhex(digest(scope)[:16]), "big", signed=True)


def chunk_id(version: int, chunk: int) -> str:
    """The row of one chunk."""
    return f"{version}.{chunk}"


def chunk_rows(scope: str, stamp: Stamp, version: int, record: NewRecord, at: datetime) -> list[Row]:
    """The rows of one version of a memory; ``record`` was checked and its vectors are of unit length."""
    common = {
        "kind": CHUNK,
        "of": scope,
        "scope_id": scope_id(scope),
        "slot": stamp.slot,
        "seq": stamp.seq,
        "version": version,
        "n_chunks": len(record.payloads),
    }
    head = {"record": _record_to_text(record, at)}
    return [
        Row(
            chunk_id(version, chunk),
            common | {"chunk": chunk} | (head if chunk == 0 else {}),
            vector,
            payload,
        )
        for chunk, (payload, vector) in enumerate(zip(record.payloads, record.vectors, strict=True))
    ]


def clock_row(scope: str, clock: Clock) -> Row:
    """The row of a writer's clock."""
    name = digest(scope)
    return Row(
        f"clock.{name}.{clock.slot}",
        {
            "kind": CLOCK,
            "clock": name,
            "scope_id": scope_id(scope),
            "slot": clock.slot,
            "seq": clock.seq,
            "token": clock.token,
            "floor": clock.floor,
        },
    )


def forgotten_rows(scope: str, stamp: Stamp, versions: Sequence[tuple[int, int]]) -> list[Row]:
    """The rows that take versions, given with their numbers of chunks, off every read path."""
    name = digest(scope)
    return [
        Row(
            f"forgotten.{name}.{stamp.slot}.{stamp.seq}.{start}",
            {
                "kind": FORGOTTEN,
                "of": scope,
                "slot": stamp.slot,
                "seq": stamp.seq,
                "versions": " ".join(
                    f"{version}.{n}" for version, n in versions[start : start + VERSIONS_A_ROW]
                ),
            },
        )
        for start in range(0, len(versions), VERSIONS_A_ROW)
    ]


def all_of(scope: str) -> dict[str, Any]:
    """The filter for everything of a scope but its clocks; every read of a scope is made of this or `clocks_of`."""
    return {"of": scope}


def since(scope: str, slot: int, seq: int, until: int | None = None) -> dict[str, Any]:
    """The filter for a writer's writes to a scope after ``seq``, up to ``until``."""
    conditions: list[dict[str, Any]] = [all_of(scope), {"slot": slot}, {"seq": {"$gt": seq}}]
    if until is not None:
        conditions.append({"seq": {"$lte": until}})
    return {"$and": conditions}


def clocks_of(scope: str) -> dict[str, Any]:
    """The filter for the clocks of a scope."""
    return {"clock": digest(scope)}


def read_clocks(rows: Iterable[Row]) -> dict[int, Clock]:
    """Clocks by slot."""
    clocks = {}
    for row in rows:
        try:
            values = row.metadata
            clock = Clock(int(values["slot"]), int(values["seq"]), str(values["token"]), int(values["floor"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"the row {row.id!r} is damaged ({error!r}); restore the collection from a copy"
            ) from error
        clocks[clock.slot] = clock
    return clocks


def stamp_of(row: Row) -> Stamp | None:
    """Which write a row belongs to, or None where that cannot be read."""
    slot, seq = row.metadata.get("slot"), row.metadata.get("seq")
    return Stamp(slot, seq) if isinstance(slot, int) and isinstance(seq, int) else None


def read_forgotten(row: Row) -> list[tuple[int, int]]:
    """The versions, with their numbers of chunks, that a row takes away."""
    try:
        pairs = [pair.partition(".") for pair in str(row.metadata["versions"]).split()]
        return [(int(version), int(n)) for version, _, n in pairs]
    except (KeyError, ValueError, OverflowError) as error:
        raise StoreError(
            f"the row {row.id!r} is damaged ({error!r}); restore the collection from a copy"
        ) from error


def read_written(head: Row, vectors: Vectors) -> Written:
    """One version from its chunk 0 and the vectors ``[n_chunks, D or 0]`` of all its chunks.

    Raises:
        NewerFormat: a newer version wrote fields that this one does not know.
        StoreError: the row is damaged.
    """
    try:
        values = json.loads(head.metadata["record"])
        at = datetime.fromisoformat(values.pop("at"))
        unknown = values.keys() - _FIELDS
        if unknown:
            raise NewerFormat(
                f"memory {values.get('id')!r} has the fields {', '.join(sorted(unknown))}: a newer "
                "nextmem-agents wrote it; upgrade the package"
            )
        stamp = stamp_of(head)
        if stamp is None:
            raise KeyError("slot")
        for name in values.keys() & _TIMES:
            values[name] = datetime.fromisoformat(values[name])
        # The metadata is anyone's who can write to the server: what is no record must not get further than here.
        # A memory may have ended before it began to hold, where another took its place.
        end = values.pop("valid_to", None)
        record = check_record(
            NewRecord(payloads=[b""] * len(vectors), vectors=vectors, **values), vectors.shape[1]
        )
        record = replace(record, valid_to=None if end is None else check_time("valid_to", end))
        return Written(check_versions([head.metadata["version"]])[0], record, check_time("at", at), stamp)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreError(f"the row {head.id!r} is damaged: {error!r}") from error


def with_end(head: Row, valid_to: datetime) -> dict[str, str]:
    """The metadata to write over a chunk 0 so that its memory ends at ``valid_to``, whatever ended it before."""
    values = json.loads(head.metadata["record"]) | {"valid_to": time_to_text(valid_to)}
    return {"record": _to_text(values)}


def n_chunks_of(head: Row) -> int:
    """How many chunks a memory has, by its chunk 0."""
    n = head.metadata.get("n_chunks")
    return n if isinstance(n, int) and 0 < n < 1_000_000 else 1


def vectors_of(chunks: Mapping[int, Row], n: int, dim: int) -> Vectors:
    """The vectors ``[n, dim]`` of a memory's chunks; one that is missing is zero.

    Raises:
        StoreError: most are missing: the number is wrong, and may be so large that room for it must not be made.
    """
    if n > 2 * len(chunks) + MISSING:
        raise StoreError(f"the memory is damaged: it is said to have {n} chunks, and {len(chunks)} are there")
    nothing = np.zeros(dim, dtype=np.float32)
    found = [chunks[chunk].vector if chunk in chunks else None for chunk in range(n)]
    return np.stack([nothing if vector is None else vector for vector in found])


def _record_to_text(record: NewRecord, at: datetime) -> str:
    values: dict[str, Any] = {"at": time_to_text(at)}
    for name in sorted(_FIELDS):
        value = getattr(record, name)
        if isinstance(value, datetime):
            value = time_to_text(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        if value is not None and value != {}:
            values[name] = value
    return _to_text(values)


def _to_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
