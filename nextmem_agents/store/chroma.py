"""The vector index in Chroma: derived from the records, and made anew from them whenever it is lost."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import InvalidArgument, StoreError
from nextmem_agents.store.apart import run_apart
from nextmem_agents.store.hnsw_files import zero_spare

# Recall@10 against an exact scan of 5,000 random 256-d vectors: 0.78 at Chroma's defaults, 1.00 with these.
HNSW = {"space": "cosine", "max_neighbors": 32, "ef_construction": 400, "ef_search": 400}
SHARED = 0
"""The collection of all scopes that are small enough to be searched exactly; every other one is a scope's key."""

PAGE = 5_000
ATTEMPTS = 3

# Chroma keeps a client that failed to start under its path for the life of the process, and every later one
# at that path fails with it. Another spelling of the path is another client.
_failed_starts: Counter[Path | None] = Counter()


class ChromaIndex:
    """One collection that small scopes share, and one for each large scope.

    A filter on a shared collection costs Chroma 80 ms over 10,000 vectors, more than looking at each of them: what is
    searched through a graph has a graph of its own. A chunk's id is ``{version}.{chunk}``.

    Everything raises ``StoreError`` when Chroma fails. ``embedding_function=None`` goes with every call that takes
    it: without, Chroma falls back to a model that it downloads.

    Args:
        folder: where Chroma keeps its files, or None for an index in memory.
        dim: D, the length of the vectors.
        fingerprint: of the codec whose vectors these are; an index of another one is dropped.
    """

    def __init__(self, folder: Path | None, dim: int, fingerprint: str) -> None:
        self._folder = folder
        # Ephemeral clients share one state within a process: only the name keeps two stores apart.
        self._prefix = "memories" if folder else f"nextmem-{uuid.uuid4().hex}"
        self._identity = {"dim": dim, "fingerprint": fingerprint}
        self._client: Any = None
        self._collections: dict[int, Any] = {}

    @property
    def connected(self) -> bool:
        """Whether Chroma is open."""
        return self._client is not None

    @property
    def durable(self) -> bool:
        """Whether the index outlives its closing."""
        return self._folder is not None

    @property
    def lost(self) -> bool:
        """Whether the folder of an index on disk is gone."""
        return self._folder is not None and not self._folder.exists()

    def connect(self) -> bool:
        """Open the collection, or make it; True when it is new and therefore empty.

        A folder that Chroma cannot open, tried twice, is removed: it holds nothing that the records do not.
        """
        for attempt in range(ATTEMPTS):
            try:
                with _reporting("open its index"):
                    return self._open()
            except StoreError:
                if self._client is None:
                    _failed_starts[self._folder] += 1
                self.close()
                if attempt == ATTEMPTS - 1:
                    raise
                if attempt == ATTEMPTS - 2:
                    self._remove_files()
        raise AssertionError("unreachable")

    def _open(self) -> bool:
        import chromadb  # takes half a second, and small stores never need it
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        if self._folder is None:
            self._client = chromadb.EphemeralClient(settings=settings)
        else:
            path = str(self._folder) + "/." * _failed_starts[self._folder]
            self._client = chromadb.PersistentClient(path, settings=settings)
        for found in self._client.list_collections():
            key = self._key(found.name)
            if key is None:
                continue
            collection = self._client.get_collection(found.name, embedding_function=None)
            if collection.metadata == self._identity:
                self._collections[key] = collection
            else:
                self._client.delete_collection(found.name)
        if self._collections:
            return False
        self._make(SHARED)
        return True

    def _key(self, name: str) -> int | None:
        if name == self._prefix:
            return SHARED
        prefix, _, key = name.rpartition("-")
        return int(key) if prefix == self._prefix and key.isdecimal() else None

    def _make(self, key: int) -> Any:
        name = self._prefix if key == SHARED else f"{self._prefix}-{key}"
        self._collections[key] = self._client.create_collection(
            name, metadata=self._identity, configuration={"hnsw": HNSW}, embedding_function=None
        )
        return self._collections[key]

    @property
    def keys(self) -> list[int]:
        """The collections there are."""
        return sorted(self._collections)

    def upsert(
        self, key: int, ids: Sequence[str], scopes: Sequence[str], vectors: npt.NDArray[np.float32]
    ) -> None:
        """Write vectors (``[n, D]`` float32) under their ids and scopes into a collection, made if need be."""
        with _reporting("index vectors"):
            collection = self._collections.get(key) or self._make(key)
            for part in self._parts(len(ids)):
                collection.upsert(
                    ids=list(ids[part]),
                    embeddings=vectors[part],
                    # In a collection of one scope a filter would find nothing else.
                    metadatas=[{"scope": scope} for scope in scopes[part]] if key == SHARED else None,
                )
        if self._folder is not None:
            zero_spare(self._folder)

    def agrees(self, key: int, ids: Sequence[str], vectors: npt.NDArray[np.float32]) -> list[bool | None]:
        """For each id, whether the index holds this vector (``[n, D]``, of unit length); None where it has lost it.

        Chroma's own count does not tell: a row can be in its tables and not in its graph, and then it is never found.
        """
        found: dict[str, npt.NDArray[np.float32]] = {}
        for part in self._parts(len(ids)):
            self._read_vectors(key, list(ids[part]), found)
        return [
            None if id_ not in found else bool(np.allclose(found[id_], vector, atol=1e-4))
            for id_, vector in zip(ids, vectors, strict=True)
        ]

    def _read_vectors(self, key: int, ids: list[str], found: dict[str, npt.NDArray[np.float32]]) -> None:
        if not ids or key not in self._collections:
            return
        try:
            with _reporting("read vectors"):
                page = self._collections[key].get(ids=ids, include=["embeddings"])
            found.update(zip(page["ids"], page["embeddings"], strict=True))
        except StoreError:
            # One row that the graph has lost fails the whole page: halve until it is alone.
            if len(ids) > 1:
                self._read_vectors(key, ids[: len(ids) // 2], found)
                self._read_vectors(key, ids[len(ids) // 2 :], found)

    def delete(self, key: int, ids: Sequence[str]) -> None:
        """Take ids out of a collection; one that is not there is passed over."""
        if key not in self._collections:
            return
        with _reporting("delete vectors"):
            for part in self._parts(len(ids)):
                self._collections[key].delete(ids=list(ids[part]))

    def drop(self, key: int) -> None:
        """Remove the collection of a scope that is no more."""
        collection = self._collections.pop(key, None)
        if collection is not None:
            with _reporting("delete a collection"):
                self._client.delete_collection(collection.name)

    def query(self, key: int, vector: npt.NDArray[np.float32], n: int) -> list[str]:
        """The ids of about the n nearest vectors (``[D]``) of one scope, by its key."""
        if key == SHARED:
            raise InvalidArgument("a query of the index needs a scope")
        collection = self._collections.get(key)
        if collection is None:
            return []
        with _reporting("search"):
            found = collection.query(query_embeddings=vector[np.newaxis], n_results=n, include=["distances"])
            return list(found["ids"][0])

    def count(self) -> int:
        """How many vectors there are."""
        with _reporting("count"):
            return sum(int(collection.count()) for collection in self._collections.values())

    def ids(self, key: int) -> set[str]:
        """The ids of all vectors of a collection."""
        found: set[str] = set()
        collection = self._collections.get(key)
        if collection is None:
            return found
        with _reporting("list ids"):
            while page := collection.get(include=[], limit=PAGE, offset=len(found))["ids"]:
                found.update(page)
        return found

    def wipe(self) -> None:
        """Close the index and remove it with its files, so that no byte of a deleted vector stays in it."""
        self.close()
        self._remove_files()

    def close(self) -> None:
        """Let go of Chroma; an index in memory is gone with it."""
        client, self._client = self._client, None
        collections, self._collections = self._collections, {}
        if client is None:
            return
        with _reporting("close its index"):
            try:
                for collection in collections.values() if self._folder is None else ():
                    client.delete_collection(collection.name)
            finally:
                client.close()
        if self._folder is not None:
            zero_spare(self._folder)

    def make_elsewhere(self, database: Path) -> bool:
        """Replace the files by ones that a process of its own makes from the records; True if there is an index.

        A process that has never held an erased vector cannot write it. The index must be closed, and what the
        database holds, committed.
        """
        if self._folder is None:
            return False
        fresh = self.fresh_folder
        self.remove_leftovers()
        if not self._folder.exists():
            return False
        arguments = [
            str(database),
            str(fresh),
            str(self._identity["dim"]),
            str(self._identity["fingerprint"]),
        ]
        try:
            run_apart("nextmem_agents.store.index_process", *arguments)
        except StoreError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise StoreError(
                f"the process that makes the index of {self._folder} anew failed: {error}"
            ) from error
        self._remove_files()
        try:
            fresh.rename(self._folder)
        except OSError as error:
            raise StoreError(f"the new index cannot be put in its place, {self._folder}: {error}") from error
        return True

    @property
    def fresh_folder(self) -> Path:
        """Where an index is made that will take this one's place."""
        assert self._folder is not None  # noqa: S101 -- callers have a folder
        return self._folder.with_name(self._folder.name + ".new")

    def remove_leftovers(self) -> None:
        """Remove what an interrupted :meth:`make_elsewhere` left."""
        if self._folder is not None:
            shutil.rmtree(self.fresh_folder, ignore_errors=True)

    def _remove_files(self) -> None:
        if self._folder is None or not self._folder.exists():
            return
        try:
            shutil.rmtree(self._folder)
        except OSError as error:
            raise StoreError(
                f"the index {self._folder} cannot be removed to be made anew: {error}"
            ) from error

    def _parts(self, n: int) -> Iterator[slice]:
        step = self._client.get_max_batch_size()
        for start in range(0, n, step):
            yield slice(start, start + step)


@contextmanager
def _reporting(action: str) -> Iterator[None]:
    """Turn whatever Chroma raises, of many unrelated types, Rust panics among them, into ``StoreError``."""
    try:
        yield
    except StoreError:
        raise
    except BaseException as error:
        panicked = type(error).__module__ == "pyo3_runtime"
        if not isinstance(error, Exception) and not panicked:
            raise
        raise StoreError(f"Chroma failed to {action}: {error}") from error
