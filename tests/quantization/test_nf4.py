"""The codes, the nearest one, and two of them in a byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization.nf4 import (
    NF4_CODES,
    code_values,
    nearest_code,
    pack,
    round_scale,
    scale_values,
    unpack,
)


def around(values: torch.Tensor, ulps: int) -> torch.Tensor:
    """Every float32 within so many steps of the given ones."""
    bits = values.view(torch.int32)[:, None] + torch.arange(-ulps, ulps + 1, dtype=torch.int32)
    return bits.view(torch.float32).flatten()


def hard_values(released: bool) -> torch.Tensor:
    codes = code_values(released)
    cells = torch.arange(-16, 17) / 16
    generator = torch.Generator().manual_seed(0)
    return torch.cat(
        (
            around((codes[1:] + codes[:-1]) / 2, 200),
            around(codes[codes != 0], 50),
            around(cells[cells != 0], 50),
            torch.rand(50_000, generator=generator) * 2.2 - 1.1,
            torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, torch.inf, -torch.inf]),
        )
    )


def test_codes_are_ascending_from_minus_one_to_one_and_hold_zero() -> None:
    assert list(NF4_CODES) == sorted(NF4_CODES)
    assert (NF4_CODES[0], NF4_CODES[7], NF4_CODES[15]) == (-1.0, 0.0, 1.0)
    assert code_values().tolist() == list(NF4_CODES)


@pytest.mark.parametrize("released", [False, True])
def test_nearest_code_is_bucketize_on_the_midpoints(released: bool) -> None:
    x, codes = hard_values(released), code_values(released)
    expected = torch.bucketize(x, (codes[1:] + codes[:-1]) / 2).to(torch.uint8)
    assert torch.equal(nearest_code(released)(x), expected)
    assert torch.equal(nearest_code(released)(x[:4000].view(4, 10, 100)), expected[:4000].view(4, 10, 100))


def test_nearest_released_code_is_the_first_minimum() -> None:
    """The released quantiser's own arithmetic in float32: |x - code| rounded, then argmin."""
    x = hard_values(released=True).clamp(-1, 1)
    distance = (x[:, None] - torch.tensor(NF4_CODES, dtype=torch.bfloat16)).abs()
    assert distance.dtype == torch.float32
    first = torch.where(distance == distance.amin(-1, keepdim=True), torch.arange(16), 16).amin(-1)
    assert torch.equal(nearest_code(released=True)(x), first.to(torch.uint8))


@given(st.integers(0, 40), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_unpack_undoes_pack(n: int, rows: int, random: object) -> None:
    codes = torch.tensor([[random.randrange(16) for _ in range(n)] for _ in range(rows)], dtype=torch.uint8)  # type: ignore[attr-defined]
    codes = codes.view(rows, n)
    packed = pack(codes)
    assert packed.shape == (rows, (n + 1) // 2)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, n), codes)
    if n % 2:
        assert not (packed[:, -1] & 15).any()


def test_unpack_refuses_a_wrong_width() -> None:
    with pytest.raises(InvalidArgument, match="5 codes take 3 bytes, not 2"):
        unpack(torch.zeros(1, 2, dtype=torch.uint8), 5)


def test_scale_bytes_span_the_format_and_round_to_nearest() -> None:
    values = scale_values()
    assert values[[0, 1, 0x38, 0x7E]].tolist() == [0.0, 2.0**-9, 1.0, 448.0]
    assert torch.equal(round_scale(values), torch.arange(127, dtype=torch.uint8))
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(1)) ** 4 * 500
    error = (values[round_scale(x).int()] - x.clamp(max=448)).abs()
    assert torch.equal(error, (values[:, None] - x.clamp(max=448)).abs().amin(0))
    assert round_scale(torch.tensor([448.1, 470.0, 3e38, torch.inf])).tolist() == [0x7E] * 4
