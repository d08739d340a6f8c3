"""What goes into a store and what comes out of it, and the protocol that every store keeps."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Scalar: TypeAlias = str | int | float | bool
Where: TypeAlias = Mapping[str, Any]
"""A filter: ``{"role": "user", "year": {"$gte": 2020}}``; see :mod:`nextmem_agents.store.filters`."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) while long work runs."""


@dataclass(frozen=True, eq=False)
class NewRecord:
    """One memory to write.

    Attributes:
        id: the caller's id, unique within the scope; the same id replaces, with history.
        payloads: one or more byte strings, one per chunk, in the order of the text.
        vectors: ``[n_chunks, D]`` float32, finite, one index vector per chunk; need not be of unit length.
        terms: how often each lexical term occurs in the memory (each at least 1); empty for none.
        session: groups memories of one conversation.
        agent: who remembers.
        role: who spoke.
        occurred_at: when it happened; a naive datetime is taken as UTC.
        metadata: strings, integers, floats and booleans under names that are not reserved.
    """

    id: str
    payloads: Sequence[bytes]
    vectors: npt.NDArray[np.float32]
    terms: Mapping[str, int] = field(default_factory=dict)
    session: str | None = None
    agent: str | None = None
    role: str | None = None
    occurred_at: datetime | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One written version of a memory, without its payloads; all datetimes are aware and in UTC.

    Attributes:
        version: the number of this writing: unique in the store, growing, never used twice.
        created_at: when the memory's first version was written.
        updated_at: when this version was written.
        n_chunks: how many payloads and vectors it has.
    """

    version: int
    id: str
    session: str | None
    agent: str | None
    role: str | None
    occurred_at: datetime | None
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Scalar]
    n_chunks: int


@dataclass(frozen=True, eq=False)
class TermPostings:
    """Where one term occurs: three arrays of the same length, by ascending version.

    Attributes:
        document_frequency: in how many memories of the scope the term occurs, whatever the filter.
        versions: ``[n]`` int64, the memories that contain the term and pass the filter.
        frequencies: ``[n]`` int64, how often the term occurs in each.
        lengths: ``[n]`` int64, the sum of all term counts of each.
    """

    document_frequency: int
    versions: npt.NDArray[np.int64]
    frequencies: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Postings:
    """What BM25 needs for one query in one scope.

    The statistics are the whole scope's: a filter decides which memories are listed, not how they score.

    Attributes:
        n_memories: memories in the scope (N).
        average_length: their mean length in terms; 0.0 in an empty scope.
        terms: every term that was asked for; one that never occurs has frequency 0 and empty arrays.
    """

    n_memories: int
    average_length: float
    terms: dict[str, TermPostings]


class Store(Protocol):
    """Memories by scope: written whole, found by id, filter, vector or term, never across scopes.

    Every method with a ``scope`` reads or writes that scope only. All raise ``InvalidArgument`` for a
    malformed argument, ``StoreClosed`` after :meth:`close`, and ``StoreError`` when the disk fails; the
    writing ones raise ``ReadOnlyStore`` on a store that was opened read-only.
    """

    def put(self, scope: str, records: Sequence[NewRecord]) -> None:
        """Write all records in one transaction: durable when it returns, and none is there when it raises.

        An id that exists is replaced: ``created_at`` stays, the old version is left to :meth:`history` alone.
        """

    def get(self, scope: str, ids: Sequence[str]) -> builtins.list[Record]:
        """The current records of these ids, in order; ``MemoryNotFound`` names the first unknown one."""

    def list(
        self, scope: str, where: Where | None = None, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[Record]:
        """All current records that match, in the order they were written, read in pages.

        The selection is fixed when the method is called: a memory written later is not in it, one replaced
        meanwhile comes as it was, and one forgotten meanwhile is left out.
        """

    def history(self, scope: str, id: str) -> builtins.list[Record]:  # noqa: A002 -- the field's own name
        """All versions of one memory, oldest first, the current one last, or ``MemoryNotFound``."""

    def records(self, scope: str, versions: Sequence[int]) -> dict[int, Record]:
        """Records by version, old versions included; a version that is not in this scope is left out."""

    def payloads(self, scope: str, versions: Sequence[int]) -> dict[int, builtins.list[bytes]]:
        """The payloads of each version, in chunk order; a version that is not in this scope is left out."""

    def nearest(
        self, scope: str, vector: npt.ArrayLike, k: int, where: Where | None = None
    ) -> builtins.list[tuple[int, float]]:
        """The k memories most similar to ``vector`` (``[D]`` floats), best first, as (version, similarity).

        A memory's similarity is the cosine of its best chunk, in -1..1; a zero vector is at 0 from all.
        """

    def postings(self, scope: str, terms: Sequence[str], where: Where | None = None) -> Postings:
        """The lexical index's answer to a query's terms."""

    def neighbours(
        self, scope: str, versions: Sequence[int], where: Where | None = None
    ) -> dict[int, builtins.list[int]]:
        """The memories written directly before and after each in its session, of those that match ``where``.

        A memory without a session, or a version that is not current in this scope, has none and is left out.
        """

    def forget(self, scope: str, ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete memories with all their versions, payloads, vectors and postings; returns how many memories.

        Exactly one of ``ids`` and a non-empty ``where`` is given. An unknown id raises ``MemoryNotFound`` and
        then nothing is deleted.
        """

    def clear(self, scope: str) -> int:
        """Delete every memory of the scope, as :meth:`forget` does; returns how many memories."""

    def count(self, scope: str) -> int:
        """How many memories the scope holds."""

    def scopes(self) -> builtins.list[str]:
        """The scopes that hold a memory, sorted."""

    def sizes(self) -> dict[str, int]:
        """Bytes on disk: ``payloads``, ``vectors``, ``lexical`` (all within ``records``), and ``chroma``."""

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the vector index anew from the records; returns the number of vectors in it."""

    def flush(self) -> None:
        """Bring the vector index up to date with the records, which are durable without it."""

    def close(self) -> None:
        """Flush and let go of the store; calling it again does nothing."""
