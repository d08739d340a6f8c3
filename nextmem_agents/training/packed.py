"""Rows of different lengths behind each other in one array, as a run keeps them, and padded when they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from nextmem_agents.codec.latent_codec import LatentCodec

_BATCH = 512


@dataclass(frozen=True)
class Packed:
    """N rows.

    Attributes:
        values: [Σn, …].
        offsets: int64 [N + 1]; row i is ``values[offsets[i] : offsets[i + 1]]``.

    Examples:
        >>> rows, lengths = Packed.of([[1, 2], [3]]).rows(torch.tensor([1, 0]), padding=-1)
        >>> rows.tolist(), lengths.tolist()
        ([[3, -1], [1, 2]], [1, 2])
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Packed:
        """Rows of whole numbers, int64."""
        flat = [number for row in rows for number in row]
        return cls(torch.tensor(flat, dtype=torch.int64), _offsets([len(row) for row in rows]))

    @classmethod
    def encoded(cls, codec: LatentCodec, rows: Sequence[Sequence[int]], title: str) -> Packed:
        """The latents of chunks, given as token ids: float16 [ΣL, D]. Shows how far it is."""
        values, lengths = [], []
        with Progress(console=Console(stderr=True)) as progress:
            for begin in progress.track(range(0, len(rows), _BATCH), description=title):
                latents = codec.encode_ids(rows[begin : begin + _BATCH])
                for row, length in zip(latents.values, latents.lengths.tolist(), strict=True):
                    values.append(row[:length].half().cpu())
                    lengths.append(length)
        return cls(torch.cat(values), _offsets(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, chosen: Tensor, padding: float = 0) -> tuple[Tensor, Tensor]:
        """The rows of these numbers, padded [B, n, …], and their lengths, int64 [B]."""
        begin, lengths = self.offsets[chosen], self.offsets[chosen + 1] - self.offsets[chosen]
        place = torch.arange(int(lengths.max()))
        index = (begin[:, None] + place).clamp(max=len(self.values) - 1)
        outside = (place >= lengths[:, None]).reshape(*index.shape, *[1] * (self.values.ndim - 1))
        return self.values[index].masked_fill(outside, padding), lengths

    def arrays(self, name: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        """What ``numpy.savez`` takes, and :meth:`read` finds."""
        return {f"{name}_values": self.values.numpy(), f"{name}_offsets": self.offsets.numpy()}

    @classmethod
    def read(cls, arrays: np.lib.npyio.NpzFile, name: str) -> Packed:
        """What :meth:`arrays` wrote under a name."""
        return cls(*(torch.from_numpy(arrays[f"{name}_{part}"]) for part in ("values", "offsets")))


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
