"""The layouts that are tortured, by name."""

from __future__ import annotations

from nextmem_agents.store import EmbeddedStore, Store
from nextmem_agents.store.server import ServerStore
from tests.torture.workload import OPTIONS

LAYOUTS = ("embedded", "server", "chroma")


def open_store(layout: str, place: str) -> Store:
    """Open the store of a layout at a folder or address."""
    if layout == "server":
        return ServerStore.open(place, **OPTIONS)
    if layout == "chroma":
        return ServerStore.open_folder(place, **OPTIONS)
    return EmbeddedStore.open(place, **OPTIONS)
