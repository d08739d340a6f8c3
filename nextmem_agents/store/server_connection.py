"""A Chroma server, or Chroma in this process, as one medium: rows that are written, read and searched."""

from __future__ import annotations

import base64
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextmem_agents.errors import CodecMismatch, NewerFormat, StoreError
from nextmem_agents.store.chroma import HNSW
from nextmem_agents.store.exact import Vectors
from nextmem_agents.store.folder import Codec
from nextmem_agents.store.hnsw_files import zero_spare
from nextmem_agents.store.server_address import parse_address, probe

FORMAT = 1
PAUSES = (0.1, 0.5, 1.5, 3.0)
"""Seconds waited before each further attempt at a request that got no answer."""

REQUEST_BYTES = 16 * 2**20
"""Chroma refuses a request body of 40 MB and more as too large."""

REQUEST_ROWS = 2_000
PAYLOAD_PREFIX = "data:application/octet-stream;base64,"


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a collection.

    Attributes:
        id: unique in the collection.
        metadata: what filters see, and the record as JSON.
        vector: ``[D]`` float32, or None where it was not asked for.
        payload: the chunk's bytes, or None where there are none or they were not asked for.
    """

    id: str
    metadata: Mapping[str, Any]
    vector: Vectors | None = None
    payload: bytes | None = None

    @property
    def size(self) -> int:
        """About how many bytes the row takes in a request."""
        text = sum(len(str(value)) for value in self.metadata.values())
        vector = 0 if self.vector is None else 4 * len(self.vector)
        return 200 + text + 3 * vector + 4 * len(self.payload or b"") // 3


class Unanswered(StoreError):
    """The server does not answer: asking for less will not help."""


class Medium:
    """A Chroma client; what it raises is ``StoreError``, and says which server or folder it was.

    Nothing but the given server is contacted: telemetry is off, and ``embedding_function=None`` goes with every
    collection, since Chroma would otherwise fall back to a model that it downloads.
    """

    def __init__(
        self, client: Any, name: str, sessions: Sequence[Any] = (), folder: Path | None = None
    ) -> None:
        self._client = client
        self.name = name
        self.folder = folder
        self._sessions = sessions
        self.max_rows = min(REQUEST_ROWS, int(self.call("open", client.get_max_batch_size)))

    @property
    def ephemeral(self) -> bool:
        """Whether it is in memory."""
        return not self._sessions and self.folder is None

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        headers: Mapping[str, str] | None,
        tenant: str | None,
        database: str | None,
        timeout: float,
    ) -> Medium:
        """Connect to a Chroma server, ``http://host:port`` or ``https://host:port``.

        Raises:
            InvalidArgument: the address is malformed.
            StoreError: nobody answers there, or something else than Chroma 1.0 or later, or it wants credentials.
        """
        host, port, secure = parse_address(url)
        probe(url, host, port, secure, headers, timeout)
        import chromadb
        import httpx
        from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

        try:
            client = chromadb.HttpClient(
                host,
                port,
                ssl=secure,
                headers=dict(headers or {}),
                settings=Settings(anonymized_telemetry=False),
                tenant=tenant or DEFAULT_TENANT,
                database=database or DEFAULT_DATABASE,
            )
        except Exception as error:
            raise StoreError(f"the Chroma server at {url} refused the connection: {error}") from error
        # Chroma's own client never gives up waiting, and leaves its connections open when it is closed.
        sessions = [client._server._session, client._admin_client._server._session]
        for session in sessions:
            session.timeout = httpx.Timeout(timeout)
        return cls(client, url, sessions=sessions)

    @classmethod
    def embed(cls, folder: Path | None) -> Medium:
        """Chroma inside this process, in a folder, or in memory if that is None."""
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        name = ":memory:" if folder is None else str(folder)
        try:
            if folder is None:
                client = chromadb.EphemeralClient(settings=settings)
            else:
                client = chromadb.PersistentClient(str(folder), settings=settings)
        except BaseException as error:
            if not isinstance(error, Exception) and not _panicked(error):
                raise
            raise StoreError(f"Chroma cannot open {name}: {error}") from error
        return cls(client, name, folder=folder)

    def collection(self, name: str, codec: Codec, isolation: str) -> Collection:
        """Open a collection, or make it.

        Raises:
            CodecMismatch: it holds another codec's memories.
            NewerFormat: a newer version wrote it; it was left untouched.
            StoreError: it is not a collection of this program.
        """
        from chromadb.errors import ChromaError, NotFoundError

        written = {
            "nextmem": FORMAT,
            "dim": codec.dim,
            "fingerprint": codec.fingerprint,
            "codec": codec.name,
            "isolation": isolation,
        }

        def create() -> Any:
            try:
                return self._client.get_collection(name, embedding_function=None)
            except NotFoundError:
                with suppress(ChromaError):  # another process has just made it, which the next line finds
                    self._client.create_collection(
                        name, metadata=written, configuration={"hnsw": HNSW}, embedding_function=None
                    )
                return self._client.get_collection(name, embedding_function=None)

        found = self.call(f"open the collection {name!r}", create)
        metadata = found.metadata or {}
        where = f"the collection {name!r} of {self.name}"
        version = metadata.get("nextmem")
        if not isinstance(version, int):
            raise StoreError(f"{where} was made by another program; choose another with collection=")
        if version > FORMAT:
            raise NewerFormat(
                f"{where} has format {version} and this version reads up to {FORMAT}; upgrade nextmem-agents. "
                "It was left untouched"
            )
        if (metadata.get("dim"), metadata.get("fingerprint")) != (codec.dim, codec.fingerprint):
            raise CodecMismatch(
                f"{where} was written with the codec {metadata.get('codec')!r} (fingerprint "
                f"{metadata.get('fingerprint')}, {metadata.get('dim')} dimensions) and is opened with "
                f"{codec.name!r} (fingerprint {codec.fingerprint}, {codec.dim} dimensions); open it with the "
                "codec that wrote it, or use another with collection=",
                metadata.get("fingerprint"),
            )
        if metadata.get("isolation") != isolation:
            raise StoreError(
                f"{where} was made with isolation={metadata.get('isolation')!r} and is opened with "
                f"isolation={isolation!r}; its memories would not be found. Open it as it was made"
            )
        return Collection(self, found, codec.dim)

    def names(self, prefix: str) -> list[str]:
        """The names of the collections that begin so."""
        found = self.call("list collections", self._client.list_collections)
        return sorted(each.name for each in found if each.name.startswith(prefix))

    def drop(self, name: str) -> None:
        """Delete a collection with all its rows."""
        self.call(f"delete the collection {name!r}", self._client.delete_collection, name)

    def close(self) -> None:
        """Let go of the client."""
        self.call("close", self._client.close)
        for session in self._sessions:
            session.close()
        if self.folder is not None:
            zero_spare(self.folder)

    def call(self, action: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of Chroma's, again if it got no answer: every request of ours may be made twice."""
        import httpx

        pauses = iter(PAUSES if self._sessions else ())
        while True:
            try:
                return method(*args, **options)
            except (httpx.TransportError, ConnectionError) as error:
                pause = None if isinstance(error, httpx.TimeoutException) else next(pauses, None)
                if pause is None:
                    raise Unanswered(
                        f"the Chroma server at {self.name} does not answer ({type(error).__name__}: {error}), "
                        f"so that nextmem could not {action}; see that it runs (chroma run --path DIR --port "
                        "PORT), and try again"
                    ) from error
                time.sleep(pause)
            except BaseException as error:
                if not isinstance(error, Exception) and not _panicked(error):
                    raise
                raise StoreError(f"Chroma at {self.name} failed to {action}: {error}") from error


class Collection:
    """The rows of one collection."""

    def __init__(self, medium: Medium, collection: Any, dim: int) -> None:
        self._call = medium.call
        self._max_rows = medium.max_rows
        self._collection = collection
        self._dim = dim

    def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows; all of one request are there or none is. See :func:`requests_of` for larger numbers."""
        self._call("write", self._collection.upsert, **self._columns(rows))

    def add(self, row: Row) -> None:
        """Write a row unless one of its id exists, which stays as it is."""
        self._call("write", self._collection.add, **self._columns([row]))

    def amend(self, id_: str, metadata: Mapping[str, Any]) -> None:
        """Write over some metadata of a row that exists; the rest stays."""
        self._call("write", self._collection.update, ids=[id_], metadatas=[dict(metadata)])

    def reindex(self, rows: Sequence[Row]) -> None:
        """Give Chroma the vectors of rows that exist once more; nothing else of them changes."""
        for part in self.requests_of(rows):
            vectors = np.stack([row.vector for row in part if row.vector is not None])
            self._call("index", self._collection.update, ids=[row.id for row in part], embeddings=vectors)

    def delete(self, ids: Sequence[str], where: Mapping[str, Any] | None = None) -> None:
        """Delete the rows of these ids, of them only those that match a filter."""
        for part in _parts(ids, self._max_rows):
            self._call("delete", self._collection.delete, ids=list(part), where=where)

    def ids(self, where: Mapping[str, Any], limit: int | None = None) -> list[str]:
        """The ids of the rows that match, as of one moment."""
        found = self._call("list rows", self._collection.get, where=where, limit=limit, include=[])
        return list(found["ids"])

    def rows(self, where: Mapping[str, Any], limit: int | None = None) -> list[Row]:
        """The rows that match, without vectors and payloads."""
        found = self._call("read", self._collection.get, where=where, limit=limit, include=["metadatas"])
        return list(self._rows(found))

    def get(self, ids: Sequence[str], vectors: bool = False, payloads: bool = False) -> dict[str, Row]:
        """The rows of these ids; one that does not exist is left out."""
        include = ["metadatas", *(["embeddings"] if vectors else []), *(["uris"] if payloads else [])]
        rows: dict[str, Row] = {}
        for part in _parts(ids, 500 if payloads else 1_000):
            self._get(list(part), include, rows)
        return rows

    def _get(self, ids: list[str], include: list[str], rows: dict[str, Row]) -> None:
        """Read rows; of one whose vector is lost with Chroma's graph all else, so that its text is not lost with it."""
        try:
            found = self._call("read", self._collection.get, ids=ids, include=include)
        except Unanswered:
            raise
        except StoreError as error:
            if "embeddings" not in include:
                raise
            if len(ids) > 1:  # one lost vector fails them all: halve until it is alone
                self._get(ids[: len(ids) // 2], include, rows)
                self._get(ids[len(ids) // 2 :], include, rows)
                return
            logger.warning("%s; the row %r is read without its vector", error, ids[0])
            rest = [each for each in include if each != "embeddings"]
            found = self._call("read", self._collection.get, ids=ids, include=rest)
        rows.update((row.id, row) for row in self._rows(found))

    def nearest(self, vector: Vectors, n: int, where: Mapping[str, Any]) -> list[str]:
        """The ids of about the n rows nearest to a unit vector ``[D]``, best first."""
        found = self._call(
            "search",
            self._collection.query,
            query_embeddings=vector[np.newaxis],
            n_results=n,
            where=where,
            include=["distances"],
        )
        return list(found["ids"][0])

    def requests_of(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """The rows in as few requests as the server takes."""
        part: list[Row] = []
        size = 0
        for row in rows:
            if part and (len(part) == self._max_rows or size + row.size > REQUEST_BYTES):
                yield part
                part, size = [], 0
            part.append(row)
            size += row.size
        if part:
            yield part

    def _columns(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {
            "ids": [row.id for row in rows],
            "embeddings": np.stack(
                [_placeholder(row.id, self._dim) if row.vector is None else row.vector for row in rows]
            ),
            "metadatas": [dict(row.metadata) for row in rows],
            "uris": ["" if row.payload is None else _to_uri(row.payload) for row in rows],
        }

    def _rows(self, found: Mapping[str, Any]) -> Iterator[Row]:
        ids = found["ids"]
        nothing = [None] * len(ids)
        columns = (found["metadatas"], found["embeddings"], found["uris"])
        for id_, metadata, vector, uri in zip(
            ids, *(nothing if column is None else column for column in columns), strict=True
        ):
            yield Row(
                id_,
                metadata or {},
                None if vector is None else np.asarray(vector, dtype=np.float32),
                _from_uri(uri) if uri else None,
            )


def _panicked(error: BaseException) -> bool:
    return type(error).__module__ == "pyo3_runtime"


def _placeholder(id_: str, dim: int) -> Vectors:
    """A direction for a row that has none: Chroma wants one of every row, and equal ones would crowd its graph."""
    vector = np.random.default_rng(uuid.uuid5(uuid.NAMESPACE_OID, id_).int).normal(size=dim)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _to_uri(payload: bytes) -> str:
    return PAYLOAD_PREFIX + base64.b64encode(payload).decode("ascii")


def _from_uri(uri: str) -> bytes | None:
    """The payload, or None for what was never one: the memory then says that it is damaged."""
    if not uri.startswith(PAYLOAD_PREFIX):
        return None
    try:
        return base64.b64decode(uri[len(PAYLOAD_PREFIX) :], validate=True)
    except ValueError:
        return None


def _parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
