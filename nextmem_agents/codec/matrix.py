"""Products with a weight that no longer changes, in the layout that suits the number of rows."""

from __future__ import annotations

import platform

import torch
from torch import Tensor

# The two operators are torch's own for torch.compile, without a public name; where they are missing, nothing is packed.
_PACKS = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_FEW_ROWS = range(2, 257)
_LARGE = 2**19  # values; smaller matrices gain nothing


class Matrix:
    """A float32 weight [E, D]; rows are multiplied with it from the left.

    One row, or very many, are fastest with the weight as it is. For those between, a large one on a CPU has a second
    copy in oneDNN's blocked layout: on two cores 1.3 to 1.9 times as fast with 2 to 32 rows (82M parameters).

    Args:
        weight: [E, D].
        pack: whether it may take memory for the second copy.
    """

    def __init__(self, weight: Tensor, pack: bool = True):
        self.weight = weight
        self._packed: Tensor | None = None
        if pack and self.packs(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), 32)

    @staticmethod
    def packs(weight: Tensor) -> bool:
        """Whether a second copy would speed up anything."""
        return (
            _PACKS
            and weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and weight.numel() >= _LARGE
        )

    def _is_packed_for(self, x: Tensor) -> bool:
        # oneDNN's operator has no gradient.
        return self._packed is not None and x[..., 0].numel() in _FEW_ROWS and not x.requires_grad

    def times(self, x: Tensor) -> Tensor:
        """X W, for x [..., E]."""
        if self._is_packed_for(x):
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
            return product
        return torch.matmul(x, self.weight)

    def times_plus(self, x: Tensor, summand: Tensor) -> Tensor:
        """X W + S, for x [B, S, E] and a summand [B, S, D]."""
        if self._is_packed_for(x):
            return self.times(x).add_(summand)
        return torch.addmm(summand.flatten(0, 1), x.flatten(0, 1), self.weight).view(summand.shape)
