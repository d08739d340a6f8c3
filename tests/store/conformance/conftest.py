"""Every store, whichever layout it has; a new layout is a new name in ``LAYOUTS``."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest

from nextmem_agents.store import EmbeddedStore
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import DIM
from tests.store.server.conftest import chroma_server

__all__ = ["chroma_server"]

LAYOUTS = ["embedded", "chroma-memory", "server"]


DURABLE = ["embedded", "chroma", "server", "server-collections"]


LISBON = datetime(2024, 5, 1, 12, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture
def open_layout(request, tmp_path):
    """Open the store of a layout, of which a test has one; again with other options as often as it likes."""
    opened = []
    name = f"test-{uuid.uuid4().hex}"

    def open_(layout, **options):
        options = {"dim": DIM, "fingerprint": "f1", "codec_name": "mini"} | options
        if layout == "embedded":
            store = EmbeddedStore.open(tmp_path / "m", **options)
        elif layout == "embedded-copy":
            store = EmbeddedStore.open(tmp_path / "copy", **options)
        elif layout == "embedded-memory":
            store = EmbeddedStore.open(":memory:", **options)
        elif layout == "chroma":
            store = ServerStore.open_folder(tmp_path / "m", **options)
        elif layout == "chroma-memory":
            store = ServerStore.open_folder(":memory:", **options)
        else:
            server = request.getfixturevalue("chroma_server")
            isolation = "collection" if layout == "server-collections" else "shared"
            store = ServerStore.open(server.url, collection=name, isolation=isolation, **options)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()


@pytest.fixture(params=LAYOUTS)
def open_store(request, open_layout):
    return lambda **options: open_layout(request.param, **options)


@pytest.fixture(params=DURABLE)
def open_durable(request, open_layout):
    return lambda **options: open_layout(request.param, **options)


@pytest.fixture
def store(open_store):
    return open_store()
