"""Latents as they come back from their codes, on any device: what quantisation-aware training needs.

:func:`round_trip` computes in tensors alone, without packing, so that it compiles and runs in the middle of a
training step. For 3, 4 and 8 levels it is bit for bit what ``dequantize(quantize(…))`` gives. For 16 it takes
NF4 codes with the absolute maximum as it is, where the stored form rounds the scale to FP8 and searches its
neighbours: an error that is a little larger than the stored one (0.098 against 0.094 on normal latents).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization.latents import FEW_LEVELS, NF4_LEVELS
from nextmem_agents.quantization.lloyd_max import level_values, thresholds
from nextmem_agents.quantization.nf4 import code_values

_TINY = 1e-20


def round_trip(latents: Tensor, table: Tensor, levels: int) -> Tensor:
    """Quantise latents and give them back; no gradient flows through (the codes are chosen, not computed).

    Args:
        latents: floating point ``[..., D]``, on any device.
        table: ``[D]``, positive, on the same device: the RMS of each dimension.
        levels: 2, 3, 4 or 8 (Lloyd-Max codes, no scale), or 16 (NF4, one scale per latent).

    Returns:
        ``[..., D]``, of the latents' dtype and device.

    Raises:
        InvalidArgument: another number of levels.

    >>> round_trip(torch.tensor([[0.3, -2.0, 8.0]]), torch.tensor([1.0, 1.0, 4.0]), 3)
    tensor([[ 0.0000, -1.2240,  4.8960]])
    """
    if levels not in (*FEW_LEVELS, NF4_LEVELS):
        raise InvalidArgument(f"a round trip takes 2, 3, 4, 8 or 16 levels, not {levels!r}")
    with torch.autocast(latents.device.type, enabled=False):
        scaled = latents.detach().float() / table
        if levels == NF4_LEVELS:
            scale = scaled.abs().amax(-1, keepdim=True).clamp(min=_TINY)
            values = code_values().to(latents.device)
            codes = torch.bucketize(scaled / scale, (values[1:] + values[:-1]) / 2)
            restored = values[codes] * scale
        else:
            codes = torch.bucketize(scaled, thresholds(levels).to(latents.device))
            restored = level_values(levels).to(latents.device)[codes]
        return (restored * table).to(latents.dtype)
