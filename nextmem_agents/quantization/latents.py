"""The quantised form of one chunk's latents, as plain bytes: what stores keep, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from nextmem_agents.errors import InvalidArgument

Scheme = Literal["per_dimension", "per_latent", "few_levels"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

FEW_LEVELS: Final = (2, 3, 4, 8)

NF4_LEVELS: Final = 16

GROUPS: Final[dict[int, tuple[int, int]]] = {2: (8, 1), 3: (5, 1), 4: (4, 1), 8: (8, 3)}
"""By number of levels: how many codes share how many bytes (1, 1.6, 2 and 3 bits a code)."""

MAX_SCALE_BYTE = 0x7E
"""The greatest finite FP8 E4M3 scale, 448; above it are NaN (0x7F) and the negative numbers."""


@dataclass(frozen=True)
class QuantizedLatents:
    """One chunk's latents, quantised: immutable, hashable, and equal when every bit is.

    Attributes:
        scheme: ``"per_dimension"`` (NF4, one scale per hidden dimension), ``"per_latent"`` (NF4, one scale
            per latent) or ``"few_levels"`` (Lloyd-Max codes without scales).
        codes: L rows of packed codes. NF4: ceil(D / 2) bytes, two codes to a byte, the first in the high
            nibble; the spare nibble of an odd D is 0. Few levels: groups of :data:`GROUPS`, packed as
            :func:`nextmem_agents.quantization.lloyd_max.pack` says.
        scales: FP8 E4M3 (``float8_e4m3fn``) bit patterns, one byte each, from 0 to 448; D of them
            (per dimension), L (per latent) or none (few levels).
        shape: (L, D): how many latents, and their width.
        levels: how many values a code can take: 16 for NF4, else 2, 3, 4 or 8.

    Raises:
        InvalidArgument: the parts contradict each other.

    >>> QuantizedLatents("per_latent", codes=b"\\x7f", scales=b"\\x38", shape=(1, 2)).n_bytes
    2
    """

    scheme: Scheme
    codes: bytes
    scales: bytes
    shape: tuple[int, int]
    levels: int = NF4_LEVELS

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise InvalidArgument(f"unknown scheme {self.scheme!r}; known are {', '.join(SCHEMES)}")
        check_levels(self.scheme, self.levels)
        n_latents, dim = self.shape
        if n_latents < 1 or dim < 1:
            raise InvalidArgument(f"quantised latents of shape {self.shape}: both numbers must be at least 1")
        if len(self.codes) != n_code_bytes(self.shape, self.levels):
            raise InvalidArgument(
                f"{len(self.codes)} bytes of codes, but shape {self.shape} at {self.levels} levels "
                f"takes {n_code_bytes(self.shape, self.levels)}"
            )
        if len(self.scales) != n_scale_bytes(self.scheme, self.shape):
            raise InvalidArgument(
                f"{len(self.scales)} scales, but {self.scheme} at shape {self.shape} "
                f"takes {n_scale_bytes(self.scheme, self.shape)}"
            )
        if self.scales and max(self.scales) > MAX_SCALE_BYTE:
            raise InvalidArgument(f"scale byte 0x{max(self.scales):02x} is negative or not a number")
        _check_spare(self.codes, dim, self.levels)

    @property
    def n_bytes(self) -> int:
        """Bytes of codes and scales: 34,816 for 15 × 4096 per dimension."""
        return len(self.codes) + len(self.scales)


def check_levels(scheme: Scheme, levels: int) -> None:
    """Refuse a number of levels that the scheme does not have.

    Raises:
        InvalidArgument: not 16 for NF4, or not 2, 3, 4 or 8 for few levels.
    """
    possible = FEW_LEVELS if scheme == "few_levels" else (NF4_LEVELS,)
    if levels not in possible or isinstance(levels, bool):
        names = ", ".join(map(str, possible))
        raise InvalidArgument(f"{scheme} codes have {names} levels, not {levels!r}")


def n_row_bytes(dim: int, levels: int) -> int:
    """Bytes of one latent's packed codes.

    >>> [n_row_bytes(256, levels) for levels in (2, 3, 4, 8, 16)]
    [32, 52, 64, 96, 128]
    """
    if levels == 3:
        return -(-dim // 5)
    return -(-dim * (levels.bit_length() - 1) // 8)


def n_code_bytes(shape: tuple[int, int], levels: int = NF4_LEVELS) -> int:
    """Bytes of packed codes for latents of shape (L, D)."""
    n_latents, dim = shape
    return n_latents * n_row_bytes(dim, levels)


def n_scale_bytes(scheme: Scheme, shape: tuple[int, int]) -> int:
    """Bytes of scales for latents of shape (L, D)."""
    n_latents, dim = shape
    return {"per_dimension": dim, "per_latent": n_latents, "few_levels": 0}[scheme]


def _check_spare(codes: bytes, dim: int, levels: int) -> None:
    """Refuse what no packing writes, so that equal latents are equal bytes."""
    if levels == 3 and max(codes) >= 3**5:
        raise InvalidArgument(f"code byte 0x{max(codes):02x} is more than five base-3 digits hold")
    width = n_row_bytes(dim, levels)
    last = codes[width - 1 :: width]
    if levels == NF4_LEVELS:
        if dim % 2 and any(byte & 0x0F for byte in last):
            raise InvalidArgument("the spare nibble after an odd number of codes is not 0")
    elif levels == 3:
        if dim % 5 and max(last) >= 3 ** (dim % 5):
            raise InvalidArgument("the spare base-3 digits after a row of codes are not 0")
    else:
        used = (dim * (levels.bit_length() - 1) - 1) % 8 + 1  # bits of a row's last byte
        if max(last) >> used:
            raise InvalidArgument("the spare bits after a row of codes are not 0")
