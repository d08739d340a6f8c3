"""Memories as the page wants them: plain dictionaries for JSON."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nextmem_agents.errors import DamagedRecord, MemoryNotFound
from nextmem_agents.memory import NextMem
from nextmem_agents.quantization import Payload, encode_binding
from nextmem_agents.recall.hits import Hit, Memory
from nextmem_agents.scope import Scope
from nextmem_agents.store.records import Scalar

MAX_COUNTED = 200
"""Scopes whose memories are counted; each takes a query."""

SEALED_BYTES = 31
"""What encryption adds to a payload; see :func:`nextmem_agents.store.keys.seal`."""

View = dict[str, Any]


class Texts:
    """Decoded texts by scope and version, the latest ones; emptied when something is forgotten."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._kept: OrderedDict[tuple[str, int], View] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, scope: str, memories: Sequence[Memory]) -> list[View]:
        """``text``, ``exact`` and ``error`` of memories that were read together; at most one batch is decoded."""
        with self._lock:
            known = [self._kept.get((scope, memory.record.version)) for memory in memories]
        found = [view or text_view(memory) for view, memory in zip(known, memories, strict=True)]
        with self._lock:
            for memory, view in zip(memories, found, strict=True):
                self._kept[scope, memory.record.version] = view
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return found

    def knows(self, scope: str, memory: Memory) -> bool:
        """Whether a memory's text was decoded before."""
        with self._lock:
            return (scope, memory.record.version) in self._kept

    def clear(self) -> None:
        """Let go of all texts."""
        with self._lock:
            self._kept.clear()


def store_view(memory: NextMem) -> View:
    """The codec, the scopes with their sizes, and the bytes on disk."""
    names = memory.scopes()
    config = memory.codec.config
    return {
        "codec": {
            "name": config.name,
            "fingerprint": memory.codec.fingerprint,
            "dim": memory.codec.dim,
            "index_size": memory.codec.index_size,
            "max_tokens": memory.codec.max_tokens,
            "tokens_per_latent": config.tokens_per_latent,
            "fixed_latents": config.fixed_latents,
            "levels": config.levels,
            "profile": memory.codec.profile,
        },
        "scopes": [
            {"name": name, "count": memory.scope(name).count() if i < MAX_COUNTED else None}
            for i, name in enumerate(names)
        ],
        "sizes": memory.sizes(),
    }


def row_view(memory: Memory) -> View:
    """What a list shows of a memory besides its text."""
    return {
        "id": memory.id,
        "version": memory.record.version,
        "session": memory.session,
        "agent": memory.agent,
        "role": memory.role,
        "occurred_at": _time(memory.occurred_at),
        "created_at": _time(memory.created_at),
        "updated_at": _time(memory.updated_at),
    }


def text_view(memory: Memory) -> View:
    """A memory's text, or in its place what is wrong with it."""
    try:
        text = memory.text
        return {"text": text, "exact": memory.exact, "error": None}
    except DamagedRecord as error:
        return {"text": None, "exact": None, "error": str(error)}


def texts_view(scope: Scope, ids: Sequence[str], texts: Texts) -> list[View]:
    """The texts of those of the ids that are still there, decoded together."""
    try:
        memories = scope.get(ids)
    except MemoryNotFound:  # forgotten since the list was made: find out which
        memories = []
        for id_ in ids:
            try:
                memories.append(scope.get(id_))
            except MemoryNotFound:
                continue
    unknown = [memory.id for memory in memories if not texts.knows(scope.name, memory)]
    fresh = {memory.id: memory for memory in scope.get(unknown)} if len(unknown) < len(memories) else {}
    memories = [fresh.get(memory.id, memory) for memory in memories]
    views = texts.of(scope.name, memories)
    return [{"id": memory.id, **view} for memory, view in zip(memories, views, strict=True)]


def hit_view(hit: Hit, text: View) -> View:
    """A recalled memory with its score, the parts that add up to it, and its place after each step of the ranking."""
    explanation = hit.explain()
    return {
        **row_view(hit),
        **text,
        "score": hit.score,
        "parts": [
            {
                "name": part.name,
                "value": part.value,
                "weight": part.weight,
                "contribution": part.contribution,
            }
            for part in explanation.parts
        ],
        "steps": [{"name": step.name, "place": step.place, "note": step.note} for step in explanation.steps],
    }


def version_view(memory: Memory, text: View, encrypted: bool) -> View:
    """All that is kept of one version of a memory, but for what its latents hold."""
    record = memory.record
    view = {
        **row_view(memory),
        **text,
        "n_chunks": record.n_chunks,
        "valid_from": _time(record.valid_from),
        "valid_to": _time(record.valid_to),
        "expires_at": _time(record.expires_at),
        "importance": record.importance,
        "written_by": record.written_by,
        "derived_from": record.derived_from,
        "supersedes": record.supersedes,
        "metadata": [_metadata(name, value) for name, value in sorted(record.metadata.items())],
    }
    try:
        payloads = memory.batch.payloads(memory.index)
    except DamagedRecord:
        return view
    return view | {
        "fidelity": memory.fidelity,
        "n_latents": memory.n_latents,
        "n_tokens": sum(payload.n_tokens for payload in payloads),
        "n_repaired": sum(len(payload.repair) for payload in payloads),
        "n_wrong": sum(payload.n_wrong for payload in payloads),
        "n_literal": sum(payload.literal is not None for payload in payloads),
        "keeps_text": any(payload.kept_text is not None for payload in payloads),
        "profile": payloads[0].profile,
        "text_bytes": sum(payload.n_bytes for payload in payloads),
        "payload_bytes": sum(payload_bytes(payload, encrypted) for payload in payloads),
    }


def payload_bytes(payload: Payload, encrypted: bool) -> int:
    """How many bytes a store keeps for a chunk; the same, whatever place they are bound to."""
    return len(payload.to_bytes(encode_binding(""))) + (SEALED_BYTES if encrypted else 0)


def _metadata(name: str, value: Scalar) -> View:
    # As text: JavaScript's numbers would round a large integer.
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return {"name": name, "value": written, "type": type(value).__name__}


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
