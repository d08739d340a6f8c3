"""NF4 codes and FP8 scales: the tables, the nearest code, two codes to a byte.

The 16 codes are quantiles of a normal distribution, with 0 and ±1 among them (4-bit NormalFloat: Dettmers et
al., "QLoRA", 2023, arXiv 2305.14314, appendix E). Scales are FP8 E4M3 (Micikevicius et al., 2022, arXiv
2209.05433): one byte, from 2^-9 to 448, and 0.

All tables lie on the CPU in float32. They are made through numpy or with ``device="cpu"``, so that a caller's
default device and dtype do not matter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization.latents import MAX_SCALE_BYTE

NF4_CODES: tuple[float, ...] = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 values, ascending; index 7 is 0. QLoRA, appendix E, in the float32 digits that bitsandbytes uses."""

MAX_SCALE = 448.0

CPU = torch.device("cpu")
_VALUES = torch.from_numpy(np.array(NF4_CODES, dtype=np.float32))


class NearestCode(NamedTuple):
    """Nearest-code look-up: [-1, 1] in cells of 1/16, each of which holds one decision boundary at most."""

    below: Tensor  # uint8 [33]: the code below the cell's boundary
    boundary: Tensor  # float32 [33]: midpoint of two codes, or infinity

    def __call__(self, x: Tensor) -> Tensor:
        """Codes (uint8, the shape of ``x``) nearest to float32 values; the lower of two equally near."""
        flat = x.reshape(-1)
        cell = (flat.clamp(-1, 1) * 16).floor_().add_(16).to(torch.int32)
        codes = self.below.index_select(0, cell)
        codes += flat > self.boundary.index_select(0, cell)
        return codes.view(x.shape)


@lru_cache(maxsize=2)
def nearest_code(released: bool = False) -> NearestCode:
    """The look-up for these codes (see :func:`code_values`)."""
    values = code_values(released)
    midpoints = (values[1:] + values[:-1]) / 2
    edges = torch.arange(-16, 17, device=CPU, dtype=torch.float32) / 16
    boundary = torch.full_like(edges, torch.inf)
    boundary[(midpoints * 16).floor().long() + 16] = midpoints
    return NearestCode(torch.bucketize(edges, midpoints).to(torch.uint8), boundary)


def code_values(released: bool = False) -> Tensor:
    """float32 [16]; the released code works with the codes rounded to bfloat16."""
    return _VALUES.bfloat16().float() if released else _VALUES


@lru_cache(maxsize=1)
def released_bfloat16_index() -> Tensor:
    """Code [65536] of every bfloat16 bit pattern, as the released quantiser chooses in that dtype.

    Its |x - code| is rounded to bfloat16, so that ties are common and no midpoint rule gives its choice.
    """
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=CPU).view(torch.bfloat16)
    return (x[:, None] - _VALUES.bfloat16()).abs().argmin(-1).to(torch.uint8)


@lru_cache(maxsize=1)
def scale_values() -> Tensor:
    """float32 [127]: the value of each scale byte."""
    return byte_tensor(bytes(range(MAX_SCALE_BYTE + 1))).view(torch.float8_e4m3fn).float()


@lru_cache(maxsize=2)
def pair_values(released: bool) -> Tensor:
    """float32 [256, 2]: the two values that a packed byte stands for."""
    values, byte = code_values(released), torch.arange(256, device=CPU)
    return torch.stack((values[byte >> 4], values[byte & 15]), dim=-1)


def pack(codes: Tensor) -> Tensor:
    """Pack codes two to a byte along the last dimension, the first in the high nibble (as bitsandbytes does).

    Args:
        codes: uint8 ``[..., n]``, values 0 to 15.

    Returns:
        uint8 ``[..., ceil(n / 2)]``; an odd n leaves the last low nibble 0.

    >>> pack(torch.tensor([15, 1, 2], dtype=torch.uint8))
    tensor([241,  32], dtype=torch.uint8)
    """
    packed = codes[..., 0::2] << 4
    packed[..., : codes.shape[-1] // 2] |= codes[..., 1::2]
    return packed


def unpack(packed: Tensor, n: int) -> Tensor:
    """Undo :func:`pack`.

    Args:
        packed: uint8 ``[..., ceil(n / 2)]``.
        n: how many codes each row holds.

    Returns:
        uint8 ``[..., n]``, values 0 to 15.

    Raises:
        InvalidArgument: rows of this width do not hold ``n`` codes.

    >>> unpack(torch.tensor([241, 32], dtype=torch.uint8), 3)
    tensor([15,  1,  2], dtype=torch.uint8)
    """
    if packed.shape[-1] != (n + 1) // 2:
        raise InvalidArgument(f"{n} codes take {(n + 1) // 2} bytes, not {packed.shape[-1]}")
    return torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2)[..., :n]


def round_scale(scale: Tensor) -> Tensor:
    """FP8 E4M3 bytes (uint8) nearest to non-negative scales; above 448 they saturate."""
    # Without the clamp some torch versions give NaN above 464.
    return scale.clamp(max=MAX_SCALE).to(torch.float8_e4m3fn).view(torch.uint8)


def byte_tensor(data: bytes) -> Tensor:
    """uint8 tensor with a copy of the bytes."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
