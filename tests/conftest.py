"""Fixtures that most tests share: the shipped codec, loaded once, and an ephemeral memory over it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec import DEFAULT_CODEC

CODEC = DEFAULT_CODEC


@pytest.fixture(scope="session")
def codec() -> LatentCodec:
    return LatentCodec.load(CODEC)


@pytest.fixture
def memory(codec: LatentCodec) -> Iterator[NextMem]:
    with NextMem.open(":memory:", codec=codec) as memory:
        yield memory
