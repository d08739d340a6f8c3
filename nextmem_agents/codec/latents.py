"""What encoding gives and decoding takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextmem_agents.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of B chunks, padded to the longest.

    Attributes:
        values: float [B, L, D]; rows past a chunk's length are zero.
        lengths: int64 [B], latents that count in each row.
        fingerprint: the codec they belong to.
    """

    values: Tensor
    lengths: Tensor
    fingerprint: str

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.lengths.shape != self.values.shape[:1]:
            raise InvalidArgument(
                f"latents must be [B, L, D] with lengths [B], not {tuple(self.values.shape)} "
                f"with {tuple(self.lengths.shape)}"
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice | list[int]) -> Latents:
        return Latents(self.values[rows], self.lengths[rows], self.fingerprint)


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """Which places of padded rows count, bool [B, width].

    >>> length_mask(torch.tensor([1, 2]), 3)
    tensor([[ True, False, False],
            [ True,  True, False]])
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]
