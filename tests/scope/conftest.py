"""A memory over a codec without a model: scopes by the hundred in no time; texts are kept literally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nextmem_agents import NextMem
from tests.langchain_nextmem.fake_codec import FakeCodec, compress


@pytest.fixture
def open_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NextMem]]:
    """``NextMem.open`` with the fake codec; closed at the end."""
    monkeypatch.setattr("nextmem_agents.scope.writing.compress", compress)
    monkeypatch.setattr("nextmem_agents.scope.migration.compress", compress)
    monkeypatch.setattr("nextmem_agents.memory.LatentCodec", FakeCodec)
    opened: list[NextMem] = []

    def open_(location: Any = ":memory:", **settings: Any) -> NextMem:
        opened.append(NextMem.open(location, codec=FakeCodec(), **settings))  # type: ignore[arg-type]
        return opened[-1]

    yield open_
    for memory in opened:
        memory.close()


@pytest.fixture
def fake(open_fake: Callable[..., NextMem]) -> NextMem:
    return open_fake()
