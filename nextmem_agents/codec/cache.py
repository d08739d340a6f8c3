"""Key/value caches: what attention has seen, kept for the steps that follow."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_AHEAD = 64  # steps for which a bias is widened at once


class Cache(Protocol):
    """The keys and values of B rows, with the mask under which the next positions see them."""

    def select(self, rows: Tensor) -> None:
        """Keep only these rows, by number, in this order."""

    def keep_first(self, n: int) -> None:
        """Keep the first n rows."""


class DynamicCache:
    """transformers' growing cache, and the mask [B, cached] that belongs to it."""

    def __init__(self, config: Any):
        from transformers import DynamicCache as Inner

        self.inner = Inner(config=config)
        self.mask = torch.zeros(0, 0, dtype=torch.int64)

    def select(self, rows: Tensor) -> None:
        """See :class:`Cache`."""
        self.inner.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def keep_first(self, n: int) -> None:
        """See :class:`Cache`."""
        self.select(torch.arange(n, device=self.mask.device))


class StaticCache:
    """Keys and values in tensors of a fixed capacity, written in place; they grow only if it is exceeded.

    Attributes:
        held: of each layer keys and values, [2, B, heads, capacity, width].
        used: positions that are written, where ``columns`` does not say otherwise.
        columns: int64 [B, S], where the next positions of each row are written; see :meth:`place`.
        bias: [B, 1, 1, prefilled], added to the scores of what follows: minus infinity at padding; None where no row
            is padded.
        rounds: what is computed with it may be rounded to bfloat16.
    """

    def __init__(self, layers: int, capacity: int, rounds: bool):
        self.used = 0
        self.rounds = rounds
        self.bias: Tensor | None = None
        self.held: list[Tensor] = []
        self.columns: Tensor | None = None
        self._end = 0  # of the columns that are seen
        self._layers = layers
        self._capacity = capacity

    def allocate(self, batch: int, length: int, heads: int, width: int, like: Tensor) -> None:
        """Make room for ``batch`` rows, and for ``length`` positions at least."""
        shape = (2, batch, heads, max(self._capacity, length), width)
        self.held = [like.new_empty(shape) for _ in range(self._layers)]

    def reserve(self, size: int) -> int:
        """Make room for ``size`` more positions, where :meth:`place` names none; the columns that are seen then."""
        if self.columns is not None:
            return self._end
        end = self.used + size
        for layer, held in enumerate(self.held):
            if end > held.shape[3]:
                more = held.new_empty(*held.shape[:3], max(held.shape[3], size), held.shape[4])
                self.held[layer] = torch.cat([held, more], 3)
        return end

    def place(self, columns: Tensor) -> None:
        """Write the next positions of each row to these columns, int64 [B, S], over what is there, and within capacity.

        Each sees all columns up to its own, but padding.
        """
        if self.columns is None:
            for held in self.held:  # what is not seen counts nothing, unless it is no number
                held[:, :, :, self.used :].zero_()
        self.columns, self._end = columns, int(columns.max()) + 1

    def sight(self, size: int) -> Tensor | None:
        """The bias of the next positions over all that is held then, [B or 1, 1, S or 1, T]; None: they see all."""
        if self.columns is not None:
            bias = bias_of(torch.arange(self._end) <= self.columns[:, None, :, None])
            return (
                bias if self.bias is None else bias + F.pad(self.bias, (0, self._end - self.bias.shape[-1]))
            )
        padding = self._padding(size)
        if size == 1:
            return padding
        causal = bias_of(torch.ones(size, self.used + size).tril(self.used))
        return causal if padding is None else padding + causal

    def rows(self, begin: int, end: int) -> StaticCache:
        """Some of the rows, as a cache over the same tensors."""
        part = StaticCache(self._layers, self._capacity, self.rounds)
        part.used = self.used
        part.held = [held[:, begin:end] for held in self.held]
        part.bias = None if self.bias is None else self.bias[begin:end]
        return part

    def _padding(self, size: int) -> Tensor | None:
        """[B, 1, 1, used + size]."""
        if self.bias is not None and (missing := self.used + size - self.bias.shape[-1]) > 0:
            # What follows the prefill is seen by every row.
            self.bias = F.pad(self.bias, (0, missing + _AHEAD))
        return None if self.bias is None else self.bias[..., : self.used + size]

    def select(self, rows: Tensor) -> None:
        """See :class:`Cache`."""
        self.held = [held.index_select(1, rows) for held in self.held]
        self.bias = None if self.bias is None else self.bias.index_select(0, rows)

    def keep_first(self, n: int) -> None:
        """See :class:`Cache`."""
        self.held = [held[:, :n] for held in self.held]
        self.bias = None if self.bias is None else self.bias[:n]


def bias_of(mask: Tensor) -> Tensor:
    """What is added to scores, float32: 0 where a mask is set, minus infinity elsewhere."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, float("-inf"))
