"""Codes of 3, 4 and 8 levels: Max's optimum, packed without loss."""

from __future__ import annotations

from itertools import pairwise
from math import erf, exp, inf, pi, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization import (
    QuantizedLatents,
    dequantize,
    lloyd_max,
    quantize,
    quantize_batch,
    schemes,
)
from nextmem_agents.quantization.latents import FEW_LEVELS, n_row_bytes

ERROR = {2: 0.363380, 3: 0.190174, 4: 0.117482, 8: 0.034548}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def density(x: float) -> float:
    return exp(-x * x / 2) / sqrt(2 * pi)


def below(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


@pytest.mark.parametrize("levels", FEW_LEVELS)
def test_each_level_is_the_mean_of_its_cell_on_a_normal_variable(levels: int) -> None:
    """Max's condition (1960, equations 3 and 4), which holds for the optimum alone."""
    values = lloyd_max.LLOYD_MAX[levels]
    edges = [-inf, *((a + b) / 2 for a, b in pairwise(values)), inf]
    error = 1.0
    for value, (low, high) in zip(values, pairwise(edges), strict=True):
        mass = below(high) - below(low)
        assert (density(low) - density(high)) / mass == pytest.approx(value, abs=1e-11)
        error -= value**2 * mass
    assert error == pytest.approx(ERROR[levels], abs=1e-6)
    assert lloyd_max.thresholds(levels).tolist() == pytest.approx(edges[1:-1], abs=1e-7)


def test_max_printed_the_same_levels() -> None:
    """Table I of the paper, four digits."""
    assert [round(x, 4) for x in lloyd_max.LLOYD_MAX[4][2:]] == [0.4528, 1.5104]
    assert [round(x, 3) for x in lloyd_max.LLOYD_MAX[8][4:]] == [0.245, 0.756, 1.344, 2.152]
    assert [round(x, 3) for x in lloyd_max.LLOYD_MAX[3]] == [-1.224, 0.0, 1.224]


@pytest.mark.parametrize(("levels", "n_bytes"), [(2, 32), (3, 52), (4, 64), (8, 96)])
def test_a_latent_of_256_takes_few_bytes(levels: int, n_bytes: int) -> None:
    row = quantize(gaussian(8, 256), "few_levels", torch.ones(256), levels=levels)
    assert (row.n_bytes, row.scales) == (8 * n_bytes, b"")


@given(st.sampled_from(FEW_LEVELS), st.integers(1, 4), st.integers(1, 40), st.data())
@settings(deadline=None)
def test_packing_loses_nothing(levels: int, rows: int, n: int, data: st.DataObject) -> None:
    digits = st.lists(st.integers(0, levels - 1), min_size=n, max_size=n)
    codes = torch.tensor(data.draw(st.lists(digits, min_size=rows, max_size=rows)), dtype=torch.uint8)
    packed = lloyd_max.pack(codes, levels)
    assert packed.shape == (rows, n_row_bytes(n, levels))
    assert torch.equal(lloyd_max.unpack(packed, n, levels), codes)
    # No other bytes stand for these codes: what packing writes is what the parser takes.
    QuantizedLatents("few_levels", packed.numpy().tobytes(), b"", (rows, n), levels)


@pytest.mark.parametrize(
    ("levels", "codes", "expected"),
    [
        (3, [0, 1, 2, 0, 1, 2], [0 + 3 + 18 + 0 + 81, 2]),
        (4, [0, 1, 2, 3, 3], [0b11100100, 0b11]),
        (8, [1, 2, 3, 4, 5, 6, 7, 0, 5, 5, 5], [0b11010001, 0b01011000, 0b00011111, 0b01101101, 0b1]),
    ],
)
def test_the_layout_is_the_documented_one(levels: int, codes: list[int], expected: list[int]) -> None:
    assert lloyd_max.pack(torch.tensor(codes, dtype=torch.uint8), levels).tolist() == expected


@pytest.mark.parametrize("levels", FEW_LEVELS)
def test_error_on_normal_latents_is_the_theoretical_one(levels: int) -> None:
    table = torch.logspace(-1, 1, 256)
    x = gaussian(2000, 256) * table
    values, _ = dequantize([quantize(x, "few_levels", table, levels=levels)], table)
    assert ((values[0] - x) / table).square().mean().item() == pytest.approx(ERROR[levels], rel=0.01)


@pytest.mark.parametrize("levels", FEW_LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_has_the_same_bytes_alone_and_in_any_batch(levels: int, dtype: torch.dtype) -> None:
    table = torch.rand(33, generator=torch.Generator().manual_seed(3)) + 0.1
    x = (gaussian(20, 9, 33) * table).to(dtype)
    lengths = torch.randint(1, 10, (20,), generator=torch.Generator().manual_seed(4))
    for i, length in enumerate(lengths.tolist()):
        x[i, length:] = torch.nan
    rows = quantize_batch(x, lengths, "few_levels", table, levels=levels)
    values, found = dequantize(rows, table)
    assert found.tolist() == lengths.tolist()
    for i, length in enumerate(lengths.tolist()):
        alone = quantize(x[i, :length], "few_levels", table, levels=levels)
        assert rows[i] == alone
        assert torch.equal(values[i, :length], dequantize([alone], table)[0][0])
        assert not values[i, length:].any()


@pytest.mark.parametrize("levels", FEW_LEVELS)
def test_quantising_again_changes_nothing(levels: int) -> None:
    table = torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.1
    once = quantize(gaussian(7, 40) * table, "few_levels", table, levels=levels)
    again = quantize(dequantize([once], table)[0][0], "few_levels", table, levels=levels)
    assert again == once


@pytest.mark.parametrize("levels", FEW_LEVELS)
def test_outliers_saturate(levels: int) -> None:
    x = torch.tensor([[3e38, -3e38, 1e-30, -1e-30]])
    restored = dequantize([quantize(x, "few_levels", torch.ones(4), levels=levels)], torch.ones(4))[0][0, 0]
    assert restored[:2].tolist() == pytest.approx(
        [lloyd_max.LLOYD_MAX[levels][-1], lloyd_max.LLOYD_MAX[levels][0]]
    )


def test_default_device_and_dtype_do_not_matter() -> None:
    x, table = gaussian(3, 32), torch.full((32,), 0.7)

    def everything() -> list[object]:
        rows = [quantize(x, "few_levels", table, levels=levels) for levels in FEW_LEVELS]
        return [*rows, *(dequantize([row], table)[0].tolist() for row in rows)]

    expected = everything()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert everything() == expected
    finally:
        torch.set_default_dtype(torch.float32)


# -- refusals


@pytest.mark.parametrize(("scheme", "levels"), [("few_levels", 16), ("few_levels", 5), ("per_latent", 4)])
def test_levels_belong_to_their_scheme(scheme: schemes.Scheme, levels: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{scheme} codes have .* levels, not {levels}"):
        quantize(torch.ones(1, 4), scheme, torch.ones(4), levels=levels)


def test_a_table_is_needed() -> None:
    with pytest.raises(InvalidArgument, match="few_levels needs the codec's table"):
        quantize(torch.ones(1, 4), "few_levels", levels=3)


def test_levels_are_not_mixed() -> None:
    table = torch.ones(4)
    rows = [quantize(torch.ones(1, 4), "few_levels", table, levels=levels) for levels in (3, 4)]
    with pytest.raises(InvalidArgument, match=r"row 1 is few_levels \(4 levels\)"):
        dequantize(rows, table)


@pytest.mark.parametrize(
    ("levels", "dim", "codes", "message"),
    [
        (3, 5, b"\xf3", "0xf3 is more than five base-3 digits"),
        (3, 5, b"\xff", "0xff is more than five base-3 digits"),
        (3, 6, b"\x00\x03", "spare base-3 digits"),
        (3, 4, b"\x51", "spare base-3 digits"),
        (4, 5, b"\x00\x04", "spare bits"),
        (4, 3, b"\x40", "spare bits"),
        (8, 1, b"\x08", "spare bits"),
        (8, 3, b"\x00\x02", "spare bits"),
        (8, 7, b"\x00\x00\x20", "spare bits"),
        (4, 4, b"", "0 bytes of codes"),
        (8, 8, b"\x00\x00\x00\x00", "4 bytes of codes"),
    ],
)
def test_what_no_packing_writes_is_refused(levels: int, dim: int, codes: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        QuantizedLatents("few_levels", codes, b"", (1, dim), levels)


def test_few_levels_have_no_scales() -> None:
    with pytest.raises(InvalidArgument, match="1 scales, but few_levels"):
        QuantizedLatents("few_levels", b"\x00", b"\x38", (1, 4), 4)
