"""``NextMem``: a store of memories with its codec; the door to scopes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import platformdirs

from nextmem_agents.asynchronous import async_twin
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.codec.checkpoint import shipped_as
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CodecMismatch, InvalidArgument
from nextmem_agents.items import OnRemember, check_hook
from nextmem_agents.recall.embedders import Embedder, as_embedder
from nextmem_agents.scope import Scope
from nextmem_agents.scope.decoded import decoded_texts
from nextmem_agents.scope.migration import Migration, Side, migrate_store
from nextmem_agents.scope.vault import Vault
from nextmem_agents.scope.verification import PayloadCheck
from nextmem_agents.scope.writing import refuse_plain
from nextmem_agents.store import EmbeddedStore, Store, check_scope
from nextmem_agents.store.folder import MEMORY
from nextmem_agents.store.keys import KeyRing
from nextmem_agents.store.records import Report
from nextmem_agents.store.server import COLLECTION, ServerStore, payload_of
from nextmem_agents.store.server_address import TIMEOUT, is_address
from nextmem_agents.store.server_sharing import Isolation

HOME_VARIABLE = "NEXTMEM_HOME"
DEFAULT_SCOPE = "default"


def default_folder() -> Path:
    """``$NEXTMEM_HOME``, or ``nextmem`` in the platform's user data folder."""
    return Path(
        os.environ.get(HOME_VARIABLE) or platformdirs.user_data_path("nextmem", appauthor=False)
    ).expanduser()


@lru_cache(maxsize=4)
def _load_codec(name_or_folder: str) -> LatentCodec:
    # A codec holds no state between calls, so everything in a process that names the same one shares it.
    return LatentCodec.load(name_or_folder)


class NextMem:
    """Latent memory of agents: texts are kept as 4-bit latents and come back exactly.

    Open it with :meth:`open`; read and write through :meth:`scope`. A context manager; closing twice is fine.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as memory:
        ...     alice = memory.scope("alice")
        ...     note = alice.remember("She moved to Lisbon in May.", role="user")
        ...     hit = alice.recall("Where does she live?", k=1)[0]
        ...     (hit.text, hit.exact, memory.scope("bob").count())
        ('She moved to Lisbon in May.', True, 0)
    """

    def __init__(
        self,
        store: Store,
        codec: LatentCodec,
        keep_text: bool | None = None,
        keys: KeyRing | None = None,
        embedder: Embedder | None = None,
        on_remember: OnRemember | None = None,
    ):
        self._store = store
        self._embedder = embedder
        self._on_remember = check_hook(on_remember)
        self.codec = codec
        self._keep_text = keep_text
        self._keys = keys

    @classmethod
    def open(
        cls,
        location: str | Path | None = None,
        *,
        codec: str | Path | LatentCodec | None = None,
        read_only: bool = False,
        keep_text: bool | None = None,
        payload: Literal["sqlite", "chroma"] | None = None,
        isolation: Isolation = "shared",
        collection: str = COLLECTION,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        encryption_key: str | bytes | None = None,
        keys: str | Path | None = None,
        embedder: Any = None,
        on_remember: OnRemember | None = None,
    ) -> NextMem:
        """Open a memory, or make it.

        Args:
            location: a folder; ``":memory:"`` for one that ends with the process; by default ``$NEXTMEM_HOME`` or
                the platform's user data folder. Opening a folder twice in a process gives the same store. Or the
                address of a Chroma server, ``http://host:port``, for many processes on many machines.
            codec: a shipped codec's name, a checkpoint folder, or a loaded codec; by default the shipped one that
                wrote the memory, and for a new one ``mini-16``.
            read_only: read beside another process that writes.
            keep_text: keep a compressed copy of each text beside its latents, as the last resort of exact recall; by
                default only where decoding is not bit-stable (anything but float32 on a CPU).
            payload: where a folder keeps the latents: ``"sqlite"``, beside Chroma's index, or ``"chroma"``, in the
                Chroma collection itself, as on a server; by default as it was made, and SQLite for a new one.
            isolation: ``"collection"`` gives each scope a Chroma collection of its own, for few and large tenants; on
                a server or with ``payload="chroma"``.
            collection: its name on the server.
            headers: sent to the server with every request, such as ``{"Authorization": "Bearer …"}``.
            timeout: seconds that a request to the server may take.
            encryption_key: a passphrase, or 32 bytes, that locks the keys of encrypted scopes; without it they lie
                plainly in ``keys.json``. See :meth:`scope`.
            keys: the folder of ``keys.json``; by default, the memory's own. A server's has to be named.
            embedder: whose vectors are searched in place of the codec's: a LangChain ``Embeddings``, a LlamaIndex
                ``BaseEmbedding``, a named function from texts to vectors, or an :class:`~nextmem_agents.Embedder`. It
                belongs to the memory for good; :meth:`migrate_to` another one embeds the exact texts anew.
            on_remember: a function that is called with each item before it is written, and gives it back, as it is or
                changed, or None to refuse it; see :data:`nextmem_agents.items.OnRemember`. Imports and migrations,
                which copy what was remembered, do not pass it.

        Raises:
            KeyMissing: ``keys.json`` is locked, and not with this ``encryption_key``.
            CheckpointError: the codec is missing, incomplete or altered.
            CodecMismatch: the folder was written with another codec or embedder.
            StoreLocked: another process is writing to the folder.
            NewerFormat: a newer version wrote the folder; it was left untouched.
            InvalidArgument: ``location`` is no folder's name.
            StoreError: the folder cannot be opened, or no Chroma server answers at the address.
        """
        check_hook(on_remember)
        own = None if embedder is None else as_embedder(embedder)
        server = location if is_address(location) else None
        if server is not None and payload == "sqlite":
            raise InvalidArgument(f"{server!r} is a server, whose payloads lie in Chroma; leave payload out")
        folder = default_folder() if location is None else _folder(location)

        def open_with(chosen: LatentCodec) -> Store:
            name = chosen.config.name
            identity: dict[str, Any] = {
                "dim": chosen.index_size if own is None else own.size,
                # Vectors of two embedders cannot be compared: the store is opened with the one that filled it.
                "fingerprint": chosen.fingerprint if own is None else f"{chosen.fingerprint}+{own.name}",
                "codec_name": name if own is None else f"{name}, embedder {own.name}",
                "read_only": read_only,
            }
            if server is not None:
                return ServerStore.open(
                    server,
                    collection=collection,
                    isolation=isolation,
                    headers=headers,
                    timeout=timeout,
                    **identity,
                )
            if payload_of(folder, payload) == "chroma":
                return ServerStore.open_folder(folder, isolation=isolation, **identity)
            if isolation != "shared":
                raise InvalidArgument(
                    "isolation='collection' is for a server or payload='chroma'; a folder with SQLite keeps scopes "
                    "apart by its keys, and searches each by itself"
                )
            return EmbeddedStore.open(folder, **identity)

        chosen, store = _opened(open_with, codec)
        try:
            ring = _keys(keys if server is not None else keys or folder, encryption_key)
            if ring is not None and not read_only:
                ring.finish_erasures(store.scopes)
        except BaseException:
            store.close()
            raise
        return cls(store, chosen, keep_text, ring, own, on_remember)

    def scope(
        self,
        name: str = DEFAULT_SCOPE,
        *,
        encrypted: bool = False,
        on_remember: OnRemember | None = None,
    ) -> Scope:
        """The memories of one user or tenant.

        Args:
            name: its id, a validated string.
            encrypted: encrypt its payloads at rest under a key of its own (AES-256-GCM), made at the first write.
                Erasing the scope erases the key. Such a scope keeps no lexical index, whose words would be readable,
                and is searched by its latents alone; index vectors and metadata stay readable. A scope that has a key
                is encrypted whether this says so or not.
            on_remember: what is written through this handle passes this function, and then the memory's own
                (:meth:`open`), which sees what it gave.

        Raises:
            InvalidArgument: ``name`` is no string, empty, longer than 256 characters, has control characters or white
                space at its ends, or is not in Unicode NFC; or the scope holds memories that are not encrypted; or
                there is no place for keys.
        """
        checked = check_scope(name)
        if encrypted:
            if self._keys is None:
                raise InvalidArgument(
                    f"the encrypted scope {checked!r} of a server needs a folder for its keys: open(..., keys=)"
                )
            if self._keys.get(checked) is None:
                refuse_plain(self._store, checked)
        hooks = (*check_hook(on_remember), *self._on_remember)
        return Scope(
            checked, self._store, self.codec, self._keep_text, self._keys, encrypted, self._embedder, hooks
        )

    def scopes(self) -> list[str]:
        """The scopes that hold a memory, sorted."""
        return self._store.scopes()

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by part: payloads, vectors, lexical index, records (all of SQLite), chroma."""
        return self._store.sizes()

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Make the vector index anew from the records; returns the number of vectors in it."""
        return self._store.rebuild(progress)

    def purge(self) -> int:
        """Delete what has expired, in all scopes; returns how many memories. No read returned them before, either."""
        try:
            return self._store.purge()
        finally:
            decoded_texts(self._store).drop()

    def compact(self) -> None:
        """Give back the disk that forgotten memories took."""
        self._store.compact()

    def verify(self, *, texts: bool = False, progress: Callable[[int, int], None] | None = None) -> Report:
        """Look at every memory: payload, checksum, vectors, index; mend the index and report what is damaged.

        Args:
            texts: decode every text too, and check it against its checksum. Slow.
            progress: called with (done, total).
        """
        return self._store.verify(PayloadCheck(self.codec, self._vault, texts), progress)

    def migrate_to(
        self, target: NextMem, *, dry_run: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> Migration:
        """Write every memory with its history into another memory, usually one of another codec or embedder.

        Texts are decoded exactly, and encoded and embedded anew; this memory stays as it is. Run again after an
        interruption, it goes on where it was. What does not come back exactly is not migrated but reported.

        A scope that is encrypted here is encrypted there, under a key of its own that is made there.

        Args:
            target: another open memory, such as ``NextMem.open("./new", codec=…)``.
            dry_run: decode and check everything, and write nothing.
            progress: called with (done, total) of each scope.

        Raises:
            InvalidArgument: the target is no other memory, or cannot encrypt a scope that is encrypted here, since it
                has no place for keys or holds plain memories there; nothing was written.
        """
        if not isinstance(target, NextMem):
            raise InvalidArgument(f"the target is another open memory, NextMem.open(…), not {target!r:.80}")
        if target._store is self._store:
            raise InvalidArgument("a memory cannot be migrated into itself; open another folder")
        return migrate_store(
            self._side(),
            target._side(),
            keep_text=target._keep_text,
            dry_run=dry_run,
            progress=progress,
        )

    def _side(self) -> Side:
        def sealing(name: str, encrypted: bool) -> AbstractContextManager[Vault]:
            return self.scope(name, encrypted=encrypted)._sealing()

        return Side(self._store, self.codec, self._vault, sealing, self._embedder)

    def _vault(self, scope: str) -> Vault:
        return Vault(scope, None if self._keys is None else self._keys.get(scope))

    def flush(self) -> None:
        """Bring the vector index up to date; what was remembered is durable without it."""
        self._store.flush()

    def close(self) -> None:
        """Flush and let go of the folder."""
        self._store.close()

    apurge = async_twin(purge)
    acompact = async_twin(compact)
    averify = async_twin(verify)
    amigrate_to = async_twin(migrate_to)
    aflush = async_twin(flush)
    aclose = async_twin(close)

    def __deepcopy__(self, _: object) -> NextMem:
        """Itself: an open store is shared by what holds it, also where a framework copies that."""
        return self

    def __enter__(self) -> NextMem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> NextMem:
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.aclose()


def _folder(location: object) -> str | Path:
    """The folder that a caller names, or ``":memory:"``."""
    if location == MEMORY:
        return MEMORY
    if not isinstance(location, str | Path) or not os.fspath(location) or "\0" in os.fspath(location):
        raise InvalidArgument(f"a memory is a folder such as './memory', not {location!r:.80}")
    return Path(location).expanduser()


def _opened(
    open_with: Callable[[LatentCodec], Store], codec: str | Path | LatentCodec | None
) -> tuple[LatentCodec, Store]:
    """The store and its codec: the one that is named, else the shipped one that wrote the store."""
    if codec is not None:
        chosen = codec if isinstance(codec, LatentCodec) else _load_codec(str(codec))
        return chosen, open_with(chosen)
    chosen = _load_codec(DEFAULT_CODEC)
    try:
        return chosen, open_with(chosen)
    except CodecMismatch as mismatch:
        # Written while another codec was the default, or under another's name.
        fingerprint, _, _ = (mismatch.written or "").partition("+")
        wrote = shipped_as(fingerprint)
        if wrote is None or wrote == DEFAULT_CODEC:
            raise
    chosen = _load_codec(wrote)
    return chosen, open_with(chosen)


def _keys(place: str | Path | None, encryption_key: str | bytes | None) -> KeyRing | None:
    if place is None:
        if encryption_key is not None:
            raise InvalidArgument("encryption_key needs a folder for the keys: open(..., keys=)")
        return None
    return KeyRing(None if str(place) == ":memory:" else Path(place), encryption_key)
