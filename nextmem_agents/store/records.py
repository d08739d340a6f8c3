"""What goes into a store and what comes out of it, and the protocol that every store keeps."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.outline import Outline

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
        expires_at: from then on no read returns the memory, its old versions included; None for never.
        valid_from: since when it holds; by default, since it was written.
        valid_to: until when it holds; by default, until another version or memory takes its place. Later than
            ``valid_from``, but in an import: a memory may have been ended before it began to hold.
        importance: 0..1, for ranking.
        written_by: who wrote this version (provenance: a user, an agent, a program).
        derived_from: what it was made from (provenance: a message's id, a document, a URL).
        supersedes: id of another memory of the scope that holds no longer, from ``valid_from`` on.
        digest: stands for the text, so that an exact repeat can be told without reading any.
        fold: write nothing if a memory of the same scope and session has this digest already.
        former: the version of the memory that this one is made from; another write between the two is refused.
        created_at: when the memory's first version was written, elsewhere; for imports.
        updated_at: when this version was written, elsewhere; for imports.
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
    expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    importance: float | None = None
    written_by: str | None = None
    derived_from: str | None = None
    supersedes: str | None = None
    digest: str | None = None
    fold: bool = False
    former: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Record:
    """One written version of a memory, without its payloads; all datetimes are aware and in UTC.

    Attributes:
        version: the number of this writing: unique in the store, growing, never used twice.
        created_at: when the memory's first version was written.
        updated_at: when this version was written.
        n_chunks: how many payloads and vectors it has.
        valid_from: since when it holds.
        valid_to: until when it held; None while nothing has taken its place.
        expires_at: when the memory goes, or None.
        importance: 0..1, or None.
        written_by: who wrote this version.
        derived_from: what it was made from.
        supersedes: id of the memory whose place it took.
        digest: stands for the text.
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
    valid_from: datetime
    valid_to: datetime | None = None
    expires_at: datetime | None = None
    importance: float | None = None
    written_by: str | None = None
    derived_from: str | None = None
    supersedes: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Access:
    """How often a memory was recalled, and when last (UTC)."""

    count: int
    last: datetime


@dataclass(frozen=True)
class Receipt:
    """What an erasure did, and what is proven of it.

    Attributes:
        scope: the scope's name.
        memories: how many memories were erased.
        versions: how many versions of them, old ones included.
        chunks: how many payloads and vectors these had.
        erased_at: when it was finished, UTC.
        proven: whether every file of the store was read to its end afterwards and held none of their bytes.
        files: how many files were read.
        bytes_read: how many bytes these had.
        not_proven: what the proof does not reach, in words.
        key_erased: whether the scope was encrypted and its key was deleted.
    """

    scope: str
    memories: int
    versions: int
    chunks: int
    erased_at: datetime
    proven: bool
    files: int = 0
    bytes_read: int = 0
    not_proven: tuple[str, ...] = ()
    key_erased: bool = False


@dataclass(frozen=True)
class Damage:
    """One version of a memory that no longer checks out, and why."""

    scope: str
    id: str
    version: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        n_memories: memories looked at.
        n_versions: their versions, old ones included.
        n_chunks: payloads of all versions.
        damaged: what does not check out; the index is never among it.
        index_missing: vectors that the index had lost, those that only its graph had lost included.
        index_extra: vectors in the index that belong to no memory.
        index_wrong: vectors that were others in the index than in the records.
        repaired: whether the index agrees with the records now.
    """

    n_memories: int
    n_versions: int
    n_chunks: int
    damaged: tuple[Damage, ...] = ()
    index_missing: int = 0
    index_extra: int = 0
    index_wrong: int = 0
    repaired: bool = True

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged and the index agrees with the records."""
        return not self.damaged and self.repaired


Check: TypeAlias = Callable[[str, Record, list[bytes]], "str | None"]
"""Called with (scope, record, payloads); returns what is wrong with the payloads, or None."""


@dataclass(frozen=True, eq=False)
class TermPostings:
    """Where one term occurs: two arrays of the same length, by ascending version.

    Attributes:
        document_frequency: in how many memories of the scope the term occurs, whatever the filter.
        versions: ``[n]`` int64, the memories that contain the term and pass the filter.
        frequencies: ``[n]`` int64, how often the term occurs in each.
    """

    document_frequency: int
    versions: npt.NDArray[np.int64]
    frequencies: npt.NDArray[np.int64]


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


MANY_MEMORIES = 1_000
"""Up to how many memories are counted in :class:`HeldTerm`; a term of more tells little."""


class HeldTerm(NamedTuple):
    """A term of one memory: how often it holds it, and in how many of the scope's memories it stands, up to 1,000."""

    frequency: int
    document_frequency: int


class Store(Protocol):
    """Memories by scope: written whole, found by id, filter, vector or term, never across scopes.

    Every method with a ``scope`` reads or writes that scope only. All raise ``InvalidArgument`` for a
    malformed argument, ``StoreClosed`` after :meth:`close`, and ``StoreError`` when the disk fails; the
    writing ones raise ``ReadOnlyStore`` on a store that was opened read-only.

    An expired memory is returned by no method, whether it was purged or not. A memory whose ``valid_to`` has
    passed is left out by the methods that take ``as_of``; :meth:`get`, :meth:`history`, :meth:`records`,
    :meth:`payloads` and :meth:`forget` still know it. With ``as_of``, those methods see the versions that held
    at that time, whatever has become of them since.
    """

    def put(self, scope: str, records: Sequence[NewRecord]) -> builtins.list[str]:
        """Write all records in one transaction: durable when it returns, and none is there when it raises.

        An id that exists is replaced: ``created_at`` stays, and the old version is left to :meth:`history` and
        to ``as_of``. Returns the ids in order; that of the memory there is, for one that was folded.

        Raises:
            MemoryNotFound: a record supersedes a memory that does not exist; nothing was written.
        """

    def get(self, scope: str, ids: Sequence[str]) -> builtins.list[Record]:
        """The current records of these ids, in order; ``MemoryNotFound`` names the first unknown one."""

    def list(
        self,
        scope: str,
        where: Where | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        after: str | int | None = None,
        as_of: datetime | None = None,
    ) -> Iterator[Record]:
        """All records that match, in the order they were written, read in pages.

        The selection is fixed when the method is called: a memory written later is not in it, one replaced
        meanwhile comes as it was, and one forgotten meanwhile is left out. ``after`` is the id of the last memory
        of the page before, ``MemoryNotFound`` if it is unknown, or its version.
        """

    def history(self, scope: str, id: str) -> builtins.list[Record]:  # noqa: A002 -- the field's own name
        """All versions of one memory, oldest first, the current one last, or ``MemoryNotFound``."""

    def records(self, scope: str, versions: Sequence[int]) -> dict[int, Record]:
        """Records by version, old versions included; a version that is not in this scope is left out."""

    def payloads(self, scope: str, versions: Sequence[int]) -> dict[int, builtins.list[bytes]]:
        """The payloads of each version, in chunk order; a version that is not in this scope is left out."""

    def nearest(
        self,
        scope: str,
        vector: npt.ArrayLike,
        k: int,
        where: Where | None = None,
        as_of: datetime | None = None,
    ) -> builtins.list[tuple[int, float]]:
        """The k memories most similar to ``vector`` (``[D]`` floats), best first, as (version, similarity).

        A memory's similarity is the cosine of its best chunk, in -1..1; a zero vector is at 0 from all.
        """

    def postings(
        self, scope: str, terms: Sequence[str], where: Where | None = None, as_of: datetime | None = None
    ) -> Postings:
        """The lexical index's answer to a query's terms."""

    def terms(self, scope: str, version: int) -> dict[str, HeldTerm]:
        """The terms that a version was put with; none of one that is not in this scope."""

    def neighbours(
        self, scope: str, versions: Sequence[int], where: Where | None = None, as_of: datetime | None = None
    ) -> dict[int, builtins.list[int]]:
        """The memories written directly before and after each in its session, of those that match ``where``.

        A memory without a session, or a version that is not to be seen in this scope, has none and is left out.
        """

    def outline(self, scope: str, where: Where | None = None, as_of: datetime | None = None) -> Outline:
        """Who said what when, in which session, of all memories; which of them match ``where`` is marked."""

    def touch(self, scope: str, versions: Sequence[int]) -> None:
        """Note that these were recalled; kept with the next write, and nothing on a read-only store."""

    def accesses(self, scope: str, versions: Sequence[int]) -> dict[int, Access]:
        """How often and when each was recalled; one that never was is left out."""

    def expire(self, scope: str, times: Mapping[int, datetime]) -> int:
        """Set when memories expire, by their current versions, and change nothing else; returns how many.

        A version that is not the current one (any more) is let be. A server, whose other clients follow versions,
        has one more then, of the same bytes and times.
        """

    def forget(self, scope: str, ids: Sequence[str] | None = None, where: Where | None = None) -> int:
        """Delete memories with all their versions, payloads, vectors and postings; returns how many memories.

        Exactly one of ``ids`` and a non-empty ``where`` is given. An unknown id raises ``MemoryNotFound`` and
        then nothing is deleted.
        """

    def clear(self, scope: str) -> int:
        """Delete every memory of the scope, as :meth:`forget` does; returns how many memories."""

    def erase(self, scope: str, on_deleted: Callable[[], object] | None = None) -> Receipt:
        """Delete every memory of the scope and its bytes wherever the store keeps any.

        One that is interrupted is finished by the next opening for writing. ``on_deleted`` is called as soon as the
        memories are off every read path.
        """

    def purge(self) -> int:
        """Delete what has expired, in all scopes; returns how many memories."""

    def dump(self, scope: str) -> Iterator[NewRecord]:
        """Every version as it was put, oldest first, with its times; to write it elsewhere.

        One that has lost a chunk has empty payloads: what is left of its text must not pass for all of it.
        """

    def count(self, scope: str) -> int:
        """How many memories the scope holds: as many as :meth:`list` gives."""

    def scopes(self) -> builtins.list[str]:
        """The scopes that hold a memory, sorted."""

    def sizes(self) -> dict[str, int]:
        """Bytes on disk: ``payloads``, ``vectors``, ``lexical`` (all within ``records``), and ``chroma``."""

    def verify(self, check: Check, progress: Progress | None = None) -> Report:
        """Look at every version, payload and vector; mend the index, and report what cannot be mended."""

    def rebuild(self, progress: Progress | None = None) -> int:
        """Make the vector index anew from the records; returns the number of vectors in it."""

    def compact(self) -> None:
        """Give back the disk that deleted memories took."""

    def flush(self) -> None:
        """Bring the vector index up to date with the records, which are durable without it."""

    def close(self) -> None:
        """Flush and let go of the store; calling it again does nothing."""
