from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from nextmem_agents.store.server import ServerStore
from tests.store.conftest import DIM
from tests.store.server.chroma_server import ChromaServer


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("chroma-server")) as server:
        yield server


@pytest.fixture
def collection() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def connect(chroma_server: ChromaServer, collection: str) -> Iterator[Callable[..., ServerStore]]:
    """Open the test's own collection on the server; each call is as good as another process."""
    with ExitStack() as stack:

        def open_(url: str = chroma_server.url, **options: Any) -> ServerStore:
            defaults = {"dim": DIM, "fingerprint": "f1", "codec_name": "mini", "collection": collection}
            return stack.enter_context(ServerStore.open(url, **(defaults | options)))

        yield open_
