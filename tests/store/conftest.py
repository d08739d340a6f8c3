from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextmem_agents.store import EmbeddedStore, NewRecord
from nextmem_agents.store.exact import unit
from nextmem_agents.store.halves import from_halves, to_halves

DIM = 8


def vector_of(text: str) -> np.ndarray:
    """A direction of its own for each text, the same in every process."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def record_of(text: str, id_: str | None = None, **fields: Any) -> NewRecord:
    """A memory of one chunk per sentence, its words being its terms."""
    chunks = text.split(". ")
    words = text.lower().split()
    return NewRecord(
        id=id_ or text,
        payloads=[chunk.encode() for chunk in chunks],
        vectors=np.stack([vector_of(chunk) for chunk in chunks]),
        terms={word: words.count(word) for word in words},
        **fields,
    )


def kept(vector: np.ndarray) -> np.ndarray:
    """A vector as SQLite keeps it, in half precision: ``[DIM]`` float16."""
    return to_halves(vector[np.newaxis])[0]


def indexed(vector: np.ndarray) -> bytes:
    """The bytes of a vector in Chroma."""
    return unit(from_halves(kept(vector).tobytes(), DIM)).astype("<f4").tobytes()


@pytest.fixture
def vector() -> Callable[[str], np.ndarray]:
    return vector_of


@pytest.fixture
def record() -> Callable[..., NewRecord]:
    return record_of


@pytest.fixture
def texts() -> Callable[[Any, str], Sequence[str]]:
    """What a scope holds, by write order, as text."""

    def read(store: EmbeddedStore, scope: str) -> list[str]:
        versions = [record.version for record in store.list(scope)]
        payloads = store.payloads(scope, versions)
        return [b". ".join(payloads[version]).decode() for version in versions]

    return read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "memory"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[..., EmbeddedStore]]:
    with ExitStack() as stack:

        def open_(where: str | Path = folder, **options: Any) -> EmbeddedStore:
            defaults = {"dim": DIM, "fingerprint": "f1", "codec_name": "mini"}
            return stack.enter_context(EmbeddedStore.open(where, **(defaults | options)))

        yield open_


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, open_store: Callable[..., EmbeddedStore]) -> EmbeddedStore:
    return open_store() if request.param == "folder" else open_store(":memory:")


PREAMBLE = """
import sys, time
sys.path.insert(0, {here!r})
from conftest import DIM, record_of, vector_of
from nextmem_agents.errors import *
from nextmem_agents.store import EmbeddedStore
def open_store(**options):
    defaults = {{"dim": DIM, "fingerprint": "f1", "codec_name": "mini"}}
    return EmbeddedStore.open({folder!r}, **(defaults | options))
"""


@pytest.fixture
def process(folder: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start Python code in a process of its own, with ``open_store()`` and ``record_of()`` at hand."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        preamble = PREAMBLE.format(here=os.path.dirname(__file__), folder=str(folder))
        child = subprocess.Popen(
            [sys.executable, "-c", preamble + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()
