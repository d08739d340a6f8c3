"""Index vectors as SQLite keeps them: unit length, half precision.

Only directions are ever compared, and rounding each entry to 11 bits moves a cosine by 1e-5 in 256 dimensions: half
the bytes of float32, and the same memories are found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nextmem_agents.store.exact import Vectors, unit

BYTES = 2
"""Bytes of an entry."""


def to_halves(vectors: Vectors) -> npt.NDArray[np.float16]:
    """``[n, D]`` float32 of any length to the unit vectors that are kept; what was kept before comes out unchanged."""
    wide = vectors.astype(np.float64)  # squares overflow float32
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    # Scaling a rounded unit vector once more would move its last bits at every export and import.
    kept = np.abs(norms - 1) < 1e-3
    if kept.all():
        return vectors.astype("<f2")
    return np.where(kept[:, None], vectors, unit(vectors)).astype("<f2")


def from_halves(data: bytes, dim: int) -> Vectors:
    """The vectors in some bytes, ``[n, dim]`` float32, of unit length up to rounding."""
    return np.frombuffer(data, dtype="<f2").reshape(-1, dim).astype(np.float32)


def readable(stored: object, dim: int, n: int | None = 1) -> bytes:
    """The bytes of n vectors (or any number), or of zeros, which are like nothing, in the place of damaged ones.

    One damaged vector must not take the search of its scope with it; ``verify`` tells.
    """
    size = BYTES * dim
    whole = isinstance(stored, bytes) and (len(stored) % size == 0 if n is None else len(stored) == n * size)
    if not isinstance(stored, bytes) or not whole:
        return bytes(size)
    values = np.frombuffer(stored, dtype="<f2")
    return stored if np.isfinite(values).all() else np.nan_to_num(values, nan=0, posinf=0, neginf=0).tobytes()


def all_readable(stored: Sequence[object], dim: int) -> bytes:
    """As :func:`readable`, of many chunks' vectors in a row; they are looked at one by one only if one is damaged."""
    if all(isinstance(each, bytes) and len(each) == BYTES * dim for each in stored):
        joined = b"".join(stored)  # type: ignore[arg-type]
        if np.isfinite(np.frombuffer(joined, dtype="<f2")).all():
            return joined
    return b"".join(readable(each, dim) for each in stored)
