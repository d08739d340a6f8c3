"""Codes of 2, 3, 4 or 8 levels: the codebooks, the nearest code, and how codes are packed into bytes.

A latent is the output of a final RMS norm, so that divided by the codec's calibrated table (the RMS of each
dimension) its values have a mean square close to 1 and need no scale of their own. They are close to normal,
and the quantiser of least squared error for a normal variable is Max's ("Quantizing for minimum distortion",
IRE Transactions on Information Theory, 1960, table I; Lloyd, "Least squares quantization in PCM", 1957/1982):
each level is the mean of its cell, and each threshold lies midway between two levels.

The squared error on a normal variable of variance 1 is 0.363380 (2 levels), 0.190174 (3), 0.117482 (4) and
0.034548 (8).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from nextmem_agents.quantization.latents import GROUPS, n_row_bytes

LLOYD_MAX: Final[dict[int, tuple[float, ...]]] = {
    2: (-0.797884560803, 0.797884560803),
    3: (-1.224006361925, 0.0, 1.224006361925),
    4: (-1.510417608499, -0.452780034636, 0.452780034636, 1.510417608499),
    8: (
        -2.151945704537,
        -1.343909278505,
        -0.756005281206,
        -0.245094178944,
        0.245094178944,
        0.756005281206,
        1.343909278505,
        2.151945704537,
    ),
}
"""The levels, ascending; the fixed point of Lloyd's iteration to 12 digits (Max prints four)."""


# Made through numpy and kept from the start: no default device or dtype matters, and calls compile.
_VALUES = {n: torch.from_numpy(np.array(values, dtype=np.float32)) for n, values in LLOYD_MAX.items()}
_THRESHOLDS = {
    n: torch.from_numpy(np.convolve(values, (0.5, 0.5), "valid").astype(np.float32))
    for n, values in LLOYD_MAX.items()
}
_WEIGHTS = {n: torch.from_numpy(n ** np.arange(size, dtype=np.int32)) for n, (size, _) in GROUPS.items()}


def level_values(levels: int) -> Tensor:
    """float32 [levels], on the CPU: what each code stands for."""
    return _VALUES[levels]


def thresholds(levels: int) -> Tensor:
    """float32 [levels - 1], on the CPU: the midpoints of neighbouring levels."""
    return _THRESHOLDS[levels]


def pack(codes: Tensor, levels: int) -> Tensor:
    """Pack codes along the last dimension, in the groups that :data:`~.latents.GROUPS` names.

    The codes c₀, c₁ … of a group are the digits of the number c₀ + c₁·levels + c₂·levels² + …, written in
    little-endian bytes. The last group of a row may be short: its missing digits are 0, and of 8 levels only
    the bytes that its digits reach are written.

    Args:
        codes: uint8 ``[..., n]``, values below ``levels``.
        levels: 2 (eight codes in a byte), 3 (five), 4 (four in a byte) or 8 (eight in three bytes).

    Returns:
        uint8 ``[..., n_row_bytes(n, levels)]``.

    >>> pack(torch.tensor([2, 1, 0, 0, 0, 2], dtype=torch.uint8), 3)
    tensor([5, 2], dtype=torch.uint8)
    """
    size, n_bytes = GROUPS[levels]
    n = codes.shape[-1]
    digits = torch.nn.functional.pad(codes, (0, -n % size)).view(*codes.shape[:-1], -1, size)
    numbers = (digits.int() * _WEIGHTS[levels]).sum(-1, dtype=torch.int32)
    shifts = torch.arange(0, 8 * n_bytes, 8, dtype=torch.int32, device=codes.device)
    parts: Tensor = numbers[..., None] >> shifts & 0xFF
    return parts.to(torch.uint8).flatten(-2)[..., : n_row_bytes(n, levels)]


def unpack(packed: Tensor, n: int, levels: int) -> Tensor:
    """Undo :func:`pack`.

    Args:
        packed: uint8 ``[..., n_row_bytes(n, levels)]``.
        n: how many codes each row holds.
        levels: 2, 3, 4 or 8.

    Returns:
        uint8 ``[..., n]``, values below ``levels``.

    >>> unpack(torch.tensor([5, 2], dtype=torch.uint8), 6, 3)
    tensor([2, 1, 0, 0, 0, 2], dtype=torch.uint8)
    """
    _, n_bytes = GROUPS[levels]
    parts = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % n_bytes))
    shifts = torch.arange(0, 8 * n_bytes, 8, dtype=torch.int32, device=packed.device)
    numbers = (parts.view(*packed.shape[:-1], -1, n_bytes).int() << shifts).sum(-1, dtype=torch.int32)
    digits = torch.div(numbers[..., None], _WEIGHTS[levels], rounding_mode="floor") % levels
    return digits.to(torch.uint8).flatten(-2)[..., :n]
