"""Opening the store that a command names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextmem_agents.cli.exits import NoStore
from nextmem_agents.cli.output import waiting
from nextmem_agents.errors import InvalidArgument

if TYPE_CHECKING:
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.memory import NextMem

# What is seldom needed, and what must not stand in a list of processes, comes from the environment.
VARIABLES = (
    ("NEXTMEM_HOME", "the store: a folder or a server's address, as --store"),
    ("NEXTMEM_SCOPE", "whose memory, as --scope"),
    ("NEXTMEM_CODEC", "the codec, as --codec"),
    ("NEXTMEM_COLLECTION", "the collection's name on a server"),
    ("NEXTMEM_HEADERS", "headers for a server, as a JSON object"),
    ("NEXTMEM_KEYS", "the folder of keys.json, for encrypted scopes of a server"),
    ("NEXTMEM_ENCRYPTION_KEY", "the passphrase that locks the keys of encrypted scopes"),
)


def is_server(store: str | None) -> bool:
    """Whether ``--store`` names a Chroma server."""
    from nextmem_agents.store.server_address import is_address

    return is_address(store)


def location(store: str | None) -> str | Path:
    """Where the store is: a server's address, or a folder."""
    if store is not None:
        if not store:
            raise InvalidArgument("--store names a folder or a server's address; it is empty")
        return store if is_server(store) or store == ":memory:" else Path(store).expanduser()
    from nextmem_agents.memory import default_folder

    return default_folder()


def settings() -> dict[str, Any]:
    """Arguments of ``NextMem.open`` that the environment gives."""
    found: dict[str, Any] = {}
    if collection := os.environ.get("NEXTMEM_COLLECTION"):
        found["collection"] = collection
    if headers := os.environ.get("NEXTMEM_HEADERS"):
        try:
            found["headers"] = dict(json.loads(headers))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                'NEXTMEM_HEADERS is a JSON object, such as {"Authorization": "Bearer …"}'
            ) from error
    if keys := os.environ.get("NEXTMEM_KEYS"):
        found["keys"] = keys
    if key := os.environ.get("NEXTMEM_ENCRYPTION_KEY"):
        found["encryption_key"] = key
    return found


def is_store(folder: Path) -> bool:
    """Whether a folder holds a store, or what is left of one; one that cannot be read may, and opening it says so."""
    try:
        return any((folder / name).exists() for name in ("records.sqlite3", "collection", "chroma"))
    except OSError:
        return True


@contextmanager
def opened(
    store: str | None, codec: str | LatentCodec | None, *, read_only: bool = False, must_exist: bool = False
) -> Iterator[NextMem]:
    """The store, open, with the codec that wrote it if none is named.

    Where ``read_only``, for reading beside another process that writes. Only what adds memories makes a store;
    everything else says ``read_only`` or ``must_exist``.

    Raises:
        NoStore: ``read_only`` or ``must_exist``, and there is no store in the folder.
    """
    place = location(store)
    if (read_only or must_exist) and isinstance(place, Path) and not is_store(place):
        raise NoStore(
            f"there is no store in {place} yet; `nextmem remember` makes one, --store names another"
        )
    with waiting("Opening the store"):
        from nextmem_agents.memory import NextMem

        memory = NextMem.open(place, codec=codec, read_only=read_only, **settings())
    with memory:
        yield memory
