"""Latent factual memory for agents: text becomes a few 4-bit latents and comes back exactly.

The names below are loaded when first used: importing this package imports neither torch nor any framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nextmem_agents.errors import (
    CannotAnswer,
    CheckpointError,
    CodecMismatch,
    DamagedRecord,
    DataError,
    EmptyText,
    InvalidArgument,
    KeyMissing,
    MemoryNotFound,
    MissingExtra,
    NewerFormat,
    NextMemError,
    PayloadError,
    ReadOnlyStore,
    StoreClosed,
    StoreError,
    StoreLocked,
    TextTooLong,
)

if TYPE_CHECKING:
    from nextmem_agents.codec.config import CodecConfig
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.codec.latents import Latents
    from nextmem_agents.memory import NextMem
    from nextmem_agents.recall.hits import Hit, Hits, Memory
    from nextmem_agents.scope import Answer, Scope

__version__ = "0.1.0"

_HOME = {
    "Answer": "scope",
    "CodecConfig": "codec.config",
    "Hit": "recall.hits",
    "Hits": "recall.hits",
    "LatentCodec": "codec.latent_codec",
    "Latents": "codec.latents",
    "Memory": "recall.hits",
    "NextMem": "memory",
    "Scope": "scope",
}

__all__ = [
    "Answer",
    "CannotAnswer",
    "CheckpointError",
    "CodecConfig",
    "CodecMismatch",
    "DamagedRecord",
    "DataError",
    "EmptyText",
    "Hit",
    "Hits",
    "InvalidArgument",
    "KeyMissing",
    "LatentCodec",
    "Latents",
    "Memory",
    "MemoryNotFound",
    "MissingExtra",
    "NewerFormat",
    "NextMem",
    "NextMemError",
    "PayloadError",
    "ReadOnlyStore",
    "Scope",
    "StoreClosed",
    "StoreError",
    "StoreLocked",
    "TextTooLong",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
