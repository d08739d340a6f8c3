"""Wide index vectors to fewer dimensions: a fixed random projection (Johnson and Lindenstrauss; Achlioptas 2003).

An 8B model's 4,096 dimensions cost an index ten times the disk and the time of 256. Projected vectors need only
propose: a search compares the stored latents of what they propose whole.
The matrix is made of the bits of SHAKE-256, the same on every machine and in every version.
"""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import shake_256

import numpy as np
import torch
from torch import Tensor

MOST = 1_024
"""Codecs of wider latents, and without an index head, are given this many dimensions."""


def reduced(dim: int) -> int | None:
    """How many dimensions index vectors of a new codec are projected to; None where they stay as they are.

    >>> reduced(4096), reduced(160)
    (1024, None)
    """
    return MOST if dim > MOST else None


def project(vectors: Tensor, size: int) -> Tensor:
    """Vectors [..., D] to [..., size], in their dtype; lengths and angles stay, up to about 1 / sqrt(size)."""
    matrix = _signs(vectors.shape[-1], size).to(vectors.device, vectors.dtype)
    return vectors @ matrix / math.sqrt(size)


@lru_cache(maxsize=4)
def _signs(dim: int, size: int) -> Tensor:
    stream = shake_256(f"nextmem projection {dim} {size}".encode()).digest((dim * size + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))[: dim * size]
    return torch.from_numpy(bits.reshape(dim, size).astype(np.float32) * 2 - 1)
