"""The 4-bit form of one chunk's latents, as plain bytes: what stores keep, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from nextmem_agents.errors import InvalidArgument

Scheme = Literal["per_dimension", "per_latent"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

MAX_SCALE_BYTE = 0x7E
"""The greatest finite FP8 E4M3 scale, 448; above it are NaN (0x7F) and the negative numbers."""


@dataclass(frozen=True)
class QuantizedLatents:
    """One chunk's latents in NF4: immutable, hashable, and equal when every bit is.

    Attributes:
        scheme: ``"per_dimension"`` (one scale per hidden dimension) or ``"per_latent"`` (one per latent).
        codes: L rows of ceil(D / 2) bytes, two codes to a byte, the first in the high nibble; the spare
            nibble of an odd D is 0.
        scales: FP8 E4M3 (``float8_e4m3fn``) bit patterns, one byte each, from 0 to 448; D of them
            (per dimension) or L (per latent).
        shape: (L, D): how many latents, and their width.

    Raises:
        InvalidArgument: the parts contradict each other.

    >>> QuantizedLatents("per_latent", codes=b"\\x7f", scales=b"\\x38", shape=(1, 2)).n_bytes
    2
    """

    scheme: Scheme
    codes: bytes
    scales: bytes
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise InvalidArgument(f"unknown scheme {self.scheme!r}; known are {', '.join(SCHEMES)}")
        n_latents, dim = self.shape
        if n_latents < 1 or dim < 1:
            raise InvalidArgument(f"quantised latents of shape {self.shape}: both numbers must be at least 1")
        if len(self.codes) != n_code_bytes(self.shape):
            raise InvalidArgument(
                f"{len(self.codes)} bytes of codes, but shape {self.shape} takes {n_code_bytes(self.shape)}"
            )
        if len(self.scales) != n_scale_bytes(self.scheme, self.shape):
            raise InvalidArgument(
                f"{len(self.scales)} scales, but {self.scheme} at shape {self.shape} "
                f"takes {n_scale_bytes(self.scheme, self.shape)}"
            )
        if max(self.scales) > MAX_SCALE_BYTE:
            raise InvalidArgument(f"scale byte 0x{max(self.scales):02x} is negative or not a number")
        if dim % 2:
            width = (dim + 1) // 2
            if any(last & 0x0F for last in self.codes[width - 1 :: width]):
                raise InvalidArgument("the spare nibble after an odd number of codes is not 0")

    @property
    def n_bytes(self) -> int:
        """Bytes of codes and scales: 34,816 for 15 × 4096 per dimension."""
        return len(self.codes) + len(self.scales)


def n_code_bytes(shape: tuple[int, int]) -> int:
    """Bytes of packed codes for latents of shape (L, D)."""
    n_latents, dim = shape
    return n_latents * ((dim + 1) // 2)


def n_scale_bytes(scheme: Scheme, shape: tuple[int, int]) -> int:
    """Bytes of scales for latents of shape (L, D)."""
    n_latents, dim = shape
    return dim if scheme == "per_dimension" else n_latents
