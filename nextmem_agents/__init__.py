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
    DamagedStore,
    DataError,
    EmptyText,
    InvalidArgument,
    KeyMissing,
    MemoryNotFound,
    MemoryRefused,
    MissingExtra,
    NewerFormat,
    NextMemError,
    Overtaken,
    PayloadError,
    ReaderError,
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
    from nextmem_agents.recall.embedders import Embedder
    from nextmem_agents.recall.hits import Hit, Hits, Memory
    from nextmem_agents.recall.recency import Recency
    from nextmem_agents.recall.trust import Trust
    from nextmem_agents.scope import Answer, Scope

__version__ = "0.1.0"

_HOME = {
    "Answer": "scope",
    "CodecConfig": "codec.config",
    "Embedder": "recall.embedders",
    "Hit": "recall.hits",
    "Hits": "recall.hits",
    "LatentCodec": "codec.latent_codec",
    "Latents": "codec.latents",
    "Memory": "recall.hits",
    "NextMem": "memory",
    "Recency": "recall.recency",
    "Scope": "scope",
    "Trust": "recall.trust",
}

__all__ = [
    "Answer",
    "CannotAnswer",
    "CheckpointError",
    "CodecConfig",
    "CodecMismatch",
    "DamagedRecord",
    "DamagedStore",
    "DataError",
    "Embedder",
    "EmptyText",
    "Hit",
    "Hits",
    "InvalidArgument",
    "KeyMissing",
    "LatentCodec",
    "Latents",
    "Memory",
    "MemoryNotFound",
    "MemoryRefused",
    "MissingExtra",
    "NewerFormat",
    "NextMem",
    "NextMemError",
    "Overtaken",
    "PayloadError",
    "ReadOnlyStore",
    "ReaderError",
    "Recency",
    "Scope",
    "StoreClosed",
    "StoreError",
    "StoreLocked",
    "TextTooLong",
    "Trust",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
