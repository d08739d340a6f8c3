"""A codec without a model, for tests that write thousands of memories: texts are kept literally."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any

import torch

from nextmem_agents.codec.exact import CompressedChunk
from nextmem_agents.codec.latents import Latents
from nextmem_agents.quantization import Payload, text_checksum

DIM = 8


def _vector(text: str) -> torch.Tensor:
    digest = blake2b(text.encode(), digest_size=DIM).digest()
    return torch.tensor([byte - 127.5 for byte in digest])


class FakeCodec:
    """As much of a LatentCodec as a scope needs; equal texts have equal vectors, and that is all they mean."""

    fingerprint = "f" * 64
    codec_id = bytes.fromhex("ffffffff")
    dim = DIM
    index_size = DIM
    profile = "float32/cpu"
    index_head = None
    projects = False
    can_answer = False
    config = SimpleNamespace(name="fake", answer_layout=None)

    def chunk(self, text: str) -> list[str]:
        return [text] if text else []

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def encode(self, texts: Sequence[str]) -> Latents:
        values = torch.stack([_vector(text) for text in texts])[:, None]
        return Latents(values, torch.ones(len(texts), dtype=torch.int64), self.fingerprint)

    def together(self, key: Any, work: Any, items: Sequence[Any]) -> Any:
        return work(list(items))

    def index_vectors(self, latents: Latents) -> torch.Tensor:
        return latents.values[:, 0]

    def check_payload(self, payload: Any) -> None:
        assert payload.codec_id == self.codec_id


def compress(codec: Any, texts: Sequence[str], keep_text: bool | None = None) -> list[list[CompressedChunk]]:
    """In place of :func:`nextmem_agents.codec.exact.compress`."""
    chunks = []
    for text in texts:
        data = text.encode()
        payload = Payload(codec.codec_id, 0, text_checksum(data), len(data), literal=data)
        chunks.append([CompressedChunk(payload, _vector(text))])
    return chunks
