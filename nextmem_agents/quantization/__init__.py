"""Latents in 4 bits and fewer, and the bytes that a store keeps for one chunk.

``QuantizedLatents`` and ``Payload`` need no torch; ``quantize``, ``quantize_batch``, ``dequantize`` and
``round_trip`` import it when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextmem_agents.quantization.latents import QuantizedLatents
from nextmem_agents.quantization.payload import Payload, encode_binding, text_checksum

if TYPE_CHECKING:
    from nextmem_agents.quantization.fake_quantization import round_trip
    from nextmem_agents.quantization.schemes import dequantize, quantize, quantize_batch

__all__ = [
    "Payload",
    "QuantizedLatents",
    "dequantize",
    "encode_binding",
    "quantize",
    "quantize_batch",
    "round_trip",
    "text_checksum",
]


def __getattr__(name: str) -> object:
    if name == "round_trip":
        from nextmem_agents.quantization.fake_quantization import round_trip

        return round_trip
    if name in {"dequantize", "quantize", "quantize_batch"}:
        from nextmem_agents.quantization import schemes

        return getattr(schemes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
