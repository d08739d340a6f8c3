from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from starlette.testclient import TestClient

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.inspector.application import application

TOKEN = "a-token-of-this-run"  # noqa: S105 -- of no server that there is
PORT = 4711
BASE = f"http://127.0.0.1:{PORT}"

SCRIPT = (
    "<script>window.owned = true</script><img src=x onerror='window.owned = true'> & \"quoted\" {{template}}"
)


def fill(memory: NextMem) -> None:
    """Two scopes: Alice's, with a history and a hostile memory, and Bob's."""
    alice = memory.scope("alice")
    alice.remember("She lives in Porto.", id="home", role="user", session="s1", written_by="agent-1")
    alice.update("home", "She moved to Lisbon in May.", written_by="agent-2", derived_from="chat:7")
    alice.remember(
        ["Her sister Ruth plays the viola.", "Ruth lives in Ghent.", SCRIPT],
        id=["ruth", "ghent", "hostile"],
        role=["user", "assistant", SCRIPT],
        session="s2",
        occurred_at=datetime(2026, 5, 2, 9, 30, tzinfo=timezone.utc),
        metadata={"year": 2026, "<b>key</b>": "<i>value</i>"},
    )
    memory.scope("bob").remember("Bob keeps bees.", id="bees")


@pytest.fixture(scope="session")
def filled(codec: LatentCodec) -> Iterator[NextMem]:
    """A memory that tests only read."""
    with NextMem.open(":memory:", codec=codec) as memory:
        fill(memory)
        yield memory


@pytest.fixture
def own(memory: NextMem) -> NextMem:
    """The same, to change."""
    fill(memory)
    return memory


def client_of(memory: NextMem, **headers: str) -> TestClient:
    sent = {"authorization": f"Bearer {TOKEN}"} | headers
    return TestClient(
        application(memory, TOKEN, PORT), base_url=BASE, headers=sent, raise_server_exceptions=True
    )


@pytest.fixture
def client(filled: NextMem) -> TestClient:
    return client_of(filled)


def read(client: TestClient, name: str, **asked: Any) -> Any:
    answer = client.get(f"/api/{name}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()
