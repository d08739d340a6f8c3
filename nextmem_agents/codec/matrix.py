"""Products with a weight that no longer changes, in the layout that suits the number of rows."""

from __future__ import annotations

import os
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
# What is packed is multiplied by oneDNN as these say, whatever torch is told: in fewer bits, leads move by more than
# the margin of a repair.
_ROUNDS = any(
    os.environ.get(name, "STRICT").upper() != "STRICT"
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
)
_FEW_ROWS = range(2, 257)
_LARGE = 2**19  # values; smaller matrices gain nothing
_EMULATED_ROWS = 6  # up to which widening a weight takes longer than emulated products
_WIDENED = 2**20  # values of a weight that are widened at once, and stay in the cache
# Without such instructions torch multiplies rows in bfloat16 one value after another.
EMULATES_BFLOAT16 = _PACKS and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
MULTIPLIES_BFLOAT16 = _PACKS and not EMULATES_BFLOAT16  # then training computes in it, too
# With a unit for it (AMX) products of bfloat16 take a fourth of the time of those of float32, rounding included.
GAINS_BY_BFLOAT16 = MULTIPLIES_BFLOAT16 and torch.cpu._is_amx_tile_supported()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """X W in the weight's type, for x [..., E] and a weight [E, D]; TorchScript compiles it, too."""
    x = x.to(weight.dtype)
    if weight.dtype == torch.bfloat16 and x.numel() == x.shape[-1] and not x.requires_grad:
        # One row is three times as fast by torch's product of matrix and vector as by that of matrices.
        row = torch.mv(weight.t(), x.flatten())
        for _ in range(x.dim() - 1):
            row = row.unsqueeze(0)
        return row
    return torch.matmul(x, weight)


def product_plus(x: Tensor, weight: Tensor, summand: Tensor) -> Tensor:
    """X W + S in float32, for x [B, S, E] of any type and a summand [B, S, D]; TorchScript compiles it, too."""
    if weight.dtype == torch.float32:
        return torch.addmm(summand.flatten(0, 1), x.float().flatten(0, 1), weight).view(summand.shape)
    return product(x, weight) + summand


class Matrix:
    """A float32 weight [E, D]; rows are multiplied with it from the left.

    One row, or very many, are fastest with the weight as it is. For those between, a large one on a CPU has a second
    copy in oneDNN's blocked layout: on two cores 1.3 to 1.9 times as fast with 2 to 32 rows (82M parameters).

    Args:
        weight: [E, D].
        pack: whether it may take memory for the second copy.
    """

    _packed_dtype = torch.float32

    def __init__(self, weight: Tensor, pack: bool = True):
        self.weight = weight
        self._packed: Tensor | None = None
        if pack and self.packs(weight):
            dtype = self._packed_dtype
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().to(dtype).contiguous(), 32)

    @property
    def is_plain(self) -> bool:
        """Whether :func:`product` and :func:`product_plus` with the weight are all there is to it."""
        return self._packed is None

    @staticmethod
    def packs(weight: Tensor) -> bool:
        """Whether a second copy would speed up anything."""
        return (
            _PACKS
            and not _ROUNDS
            and weight.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.bfloat16)
            and weight.numel() >= _LARGE
        )

    def _is_packed_for(self, x: Tensor) -> bool:
        # oneDNN's operator has no gradient.
        return self._packed is not None and x[..., 0].numel() in _FEW_ROWS and not x.requires_grad

    def times(self, x: Tensor) -> Tensor:
        """X W in float32, for x [..., E]."""
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """X W in the type that it is multiplied in, for x [..., E]."""
        if self._is_packed_for(x):
            found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
            return found
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return product(x, self.weight)

    def times_plus(self, x: Tensor, summand: Tensor) -> Tensor:
        """X W + S in float32, for x [B, S, E] of any type and a summand [B, S, D]."""
        x = x.float()
        if self._is_packed_for(x):
            return self.times(x).add_(summand)
        return product_plus(x, self.weight, summand)


class Bfloat16Matrix(Matrix):
    """A bfloat16 weight [E, D] for a CPU that multiplies in that type; rows are float32.

    Rows are rounded to bfloat16, products summed in float32 and rounded again, as the type has it. 2 to 256 rows are
    up to twice as fast with a copy in oneDNN's layout.

    Args:
        weight: [E, D], the transpose of a contiguous tensor.
        pack: whether it may take memory for a second copy.
    """

    _packed_dtype = torch.bfloat16

    def times(self, x: Tensor) -> Tensor:
        """See :class:`Matrix`."""
        return self.product(x).float()

    def product(self, x: Tensor) -> Tensor:
        """See :class:`Matrix`."""
        return super().product(x.bfloat16())

    def times_plus(self, x: Tensor, summand: Tensor) -> Tensor:
        """See :class:`Matrix`."""
        return self.product(x) + summand


class EmulatedBfloat16Matrix(Bfloat16Matrix):
    """A bfloat16 weight [E, D] for a CPU without instructions for that type; rows are float32.

    Rows are rounded to bfloat16, as the type has it, and products are summed in float32. One row reads half the bytes
    that a float32 weight has, and takes half the time; a few are multiplied in float32, with a copy in oneDNN's
    layout, ten times as fast as torch multiplies them in bfloat16; for many the weight is widened each time.

    Args:
        weight: [E, D], the transpose of a contiguous tensor.
        pack: whether it may take memory for a float32 copy.
    """

    _packed_dtype = torch.float32

    def __init__(self, weight: Tensor, pack: bool = True):
        super().__init__(weight, pack)
        self._wide = weight.float() if pack and self._packed is None else None

    @property
    def is_plain(self) -> bool:
        """See :class:`Matrix`."""
        return False

    def product(self, x: Tensor) -> Tensor:
        """See :class:`Matrix`; in float32."""
        x = x.bfloat16()
        rows = x[..., 0].numel()
        if rows == 1 and not x.requires_grad:
            return product(x, self.weight).float()
        if rows <= _EMULATED_ROWS and self._packed is None and self._wide is None:
            return torch.matmul(x, self.weight).float()
        return Matrix.product(self, x.float())

    def _product(self, x: Tensor) -> Tensor:
        if self._wide is not None:
            return torch.matmul(x, self._wide)
        parts = torch.split(self.weight, max(1, _WIDENED // len(self.weight)), 1)
        products = [torch.matmul(x, part.float()) for part in parts]
        return products[0] if len(products) == 1 else torch.cat(products, -1)


def matrix(weight: Tensor, pack: bool = True) -> Matrix:
    """The kind that suits a weight's type."""
    if weight.dtype != torch.bfloat16:
        return Matrix(weight, pack)
    return (EmulatedBfloat16Matrix if EMULATES_BFLOAT16 else Bfloat16Matrix)(weight, pack)
