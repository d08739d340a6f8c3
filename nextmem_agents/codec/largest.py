"""The largest value of each row, and where it is."""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 64  # into which a row of rounded values is laid to look for its largest
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


def largest_positive(values: Tensor, dim: int = -1) -> Tensor:
    """The largest of bfloat16 values where it is positive; where none is, one that is not.

    Positive ones are ordered as the integers of their bits are, of which torch finds the largest ten times as fast.

    Examples:
        >>> largest_positive(torch.tensor([[-2.0, 3.0, 1.0]]).bfloat16())
        tensor([3.], dtype=torch.bfloat16)
    """
    return values.view(torch.int16).amax(dim).view(torch.bfloat16)


def largest_rounded(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The place of a positive largest value of each row of bfloat16 [n, V], and what was looked through for it.

    Args:
        rows: V is a multiple of ``COLUMNS``.

    Returns:
        Places int64 [n]; the largest value of each column [n, COLUMNS], as :func:`largest_positive` gives it; and all
        values of the column in which the place is [n, V / COLUMNS].
    """
    columns = rows.view(len(rows), -1, COLUMNS)
    of_columns = largest_positive(columns, 1)
    column = of_columns.max(-1).indices
    inside = columns[torch.arange(len(rows)), :, column]
    return inside.argmax(-1) * COLUMNS + column, of_columns, inside


def nearly_largest(rows: Tensor) -> Tensor:
    """The place of the largest value of each row [n, V], int64 [n], for a guess.

    Sooner than by :func:`largest` in bfloat16, where rows without a positive value may give any place.
    """
    if rows.dtype == torch.bfloat16 and not rows.shape[-1] % COLUMNS:
        return largest_rounded(rows)[0]
    return largest(rows)[1]
