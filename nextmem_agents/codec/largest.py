"""The largest value of each row, and where it is."""

from __future__ import annotations

import torch
from torch import Tensor

_PART = 64  # values of a row in which its largest is looked for


def largest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each row of [n, V], and its place, int64 [n]: the first, if several are as large.

    On a CPU, torch finds a value five times as fast as its place: so the place is looked for in one part of a row.

    Examples:
        >>> largest(torch.tensor([[1.0, 3.0, 2.0]]))
        (tensor([3.]), tensor([1]))
    """
    n, size = rows.shape
    if rows.device.type != "cpu" or size % _PART or n < 2:
        best, place = rows.max(-1)
        return best, place
    parts = rows.view(n, -1, _PART)
    best, part = parts.amax(-1).max(-1)
    return best, part * _PART + parts[torch.arange(n), part].argmax(-1)
