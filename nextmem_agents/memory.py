"""``NextMem``: a store of memories with its codec; the door to scopes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import platformdirs

from nextmem_agents.asynchronous import async_twin
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.scope import Scope
from nextmem_agents.store import EmbeddedStore, Store, check_scope

HOME_VARIABLE = "NEXTMEM_HOME"
DEFAULT_CODEC = "mini"
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

    def __init__(self, store: Store, codec: LatentCodec, keep_text: bool | None = None):
        self._store = store
        self.codec = codec
        self._keep_text = keep_text

    @classmethod
    def open(
        cls,
        location: str | Path | None = None,
        *,
        codec: str | Path | LatentCodec = DEFAULT_CODEC,
        read_only: bool = False,
        keep_text: bool | None = None,
    ) -> NextMem:
        """Open a memory, or make it.

        Args:
            location: a folder; ``":memory:"`` for one that ends with the process; by default ``$NEXTMEM_HOME`` or
                the platform's user data folder. Opening a folder twice in a process gives the same store.
            codec: a shipped codec's name, a checkpoint folder, or a loaded codec.
            read_only: read beside another process that writes.
            keep_text: keep a compressed copy of each text beside its latents, as the last resort of exact recall; by
                default only where decoding is not bit-stable (anything but float32 on a CPU).

        Raises:
            CheckpointError: the codec is missing, incomplete or altered.
            CodecMismatch: the folder was written with another codec.
            StoreLocked: another process is writing to the folder.
            NewerFormat: a newer version wrote the folder; it was left untouched.
            StoreError: the folder cannot be opened.
        """
        if isinstance(location, str) and location.startswith(("http://", "https://")):
            raise InvalidArgument(
                f"{location!r} is a server, and this version keeps memories in a local folder only: give a path"
            )
        chosen = codec if isinstance(codec, LatentCodec) else _load_codec(str(codec))
        folder = default_folder() if location is None else location
        store = EmbeddedStore.open(
            folder,
            dim=chosen.dim,
            fingerprint=chosen.fingerprint,
            codec_name=chosen.config.name,
            read_only=read_only,
        )
        return cls(store, chosen, keep_text)

    def scope(self, name: str = DEFAULT_SCOPE) -> Scope:
        """The memories of one user or tenant.

        Raises:
            InvalidArgument: ``name`` is no string, empty, or in a form that could look like another.
        """
        return Scope(check_scope(name), self._store, self.codec, self._keep_text)

    def scopes(self) -> list[str]:
        """The scopes that hold a memory, sorted."""
        return self._store.scopes()

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by part: payloads, vectors, lexical index, records (all of SQLite), chroma."""
        return self._store.sizes()

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Make the vector index anew from the records; returns the number of vectors in it."""
        return self._store.rebuild(progress)

    def flush(self) -> None:
        """Bring the vector index up to date; what was remembered is durable without it."""
        self._store.flush()

    def close(self) -> None:
        """Flush and let go of the folder."""
        self._store.close()

    aflush = async_twin(flush)
    aclose = async_twin(close)

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
