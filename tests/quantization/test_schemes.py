"""Latents survive 4 bits: as the released code has them, or better in the same bytes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization import QuantizedLatents, dequantize, nf4, quantize, quantize_batch, schemes
from nextmem_agents.quantization.latents import Scheme


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(x: Tensor, restored: Tensor) -> float:
    return float((restored - x).norm() / x.norm())


def restore(row: QuantizedLatents, table: Tensor | None = None) -> Tensor:
    return dequantize([row], table)[0][0]


def codes_of(row: QuantizedLatents) -> Tensor:
    packed = torch.frombuffer(bytearray(row.codes), dtype=torch.uint8).view(row.shape[0], -1)
    return nf4.unpack(packed, row.shape[1])


def column_errors(x: Tensor, row: QuantizedLatents) -> Tensor:
    return (restore(row).double() - x.double()).square().sum(0)


# -- the released format


@pytest.mark.shared
def test_released_quantiser_bit_for_bit(goldens: dict[str, Tensor]) -> None:
    names = [name.removesuffix(".q_indices") for name in goldens if name.endswith(".q_indices")]
    assert len(names) == 15
    for name in names:
        latents = goldens[f"{name}.input" if name == "quant_case" else f"{name}.latents"]
        row = quantize(latents, "per_dimension", search=False)
        assert torch.equal(codes_of(row), goldens[f"{name}.q_indices"]), name
        assert row.scales == goldens[f"{name}.q_scales_e4m3_bytes"].numpy().tobytes(), name
        if f"{name}.dequant" in goldens:
            values, _ = dequantize([row], as_released=True)
            assert torch.equal(values[0], goldens[f"{name}.dequant"].float()), name


@pytest.mark.shared
def test_search_beats_the_released_choice_on_recorded_latents(goldens: dict[str, Tensor]) -> None:
    for name in [name for name in goldens if name.endswith(".latents") and name.count(".") == 1]:
        latents = goldens[name].float()
        found = column_errors(latents, quantize(latents, "per_dimension"))
        released = column_errors(latents, quantize(latents, "per_dimension", search=False))
        assert (found <= released * (1 + 1e-5)).all(), name
        assert found.sum() < 0.85 * released.sum(), name


COLUMNS = {
    "gaussian": gaussian(15, 2000),
    "heavy tails": gaussian(15, 2000) / gaussian(15, 2000, seed=1).abs().clamp(min=1e-2),
    "one latent": gaussian(1, 2000),
    "many latents": gaussian(100, 500),
    "every scale": gaussian(15, 4000) * torch.logspace(-5, 4, 4000),
    "constant": torch.linspace(-500, 500, 2001).expand(15, -1),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_search_never_loses_in_any_column(name: str, dtype: torch.dtype) -> None:
    x = COLUMNS[name].to(dtype)
    found = column_errors(x, quantize(x, "per_dimension"))
    released = column_errors(x, quantize(x, "per_dimension", search=False))
    # The search compares float32 sums; two choices may tie there and differ in double.
    assert (found <= released * (1 + 1e-5)).all()


def test_per_dimension_error_on_gaussian_data() -> None:
    x = gaussian(15, 4096) * 2.7
    assert 0.083 < relative_error(x, restore(quantize(x, "per_dimension", search=False))) < 0.086
    assert 0.070 < relative_error(x, restore(quantize(x, "per_dimension"))) < 0.073


def test_per_dimension_keeps_the_rest_where_some_dimensions_are_outliers() -> None:
    x = gaussian(15, 4096)
    x[:, ::512] *= 50
    rest = torch.ones(4096, dtype=torch.bool)
    rest[::512] = False
    restored = restore(quantize(x, "per_dimension"))
    assert relative_error(x[:, rest], restored[:, rest]) < 0.073
    assert relative_error(x[:, ~rest], restored[:, ~rest]) < 0.085


def test_released_shape_takes_34816_bytes() -> None:
    row = quantize(torch.ones(15, 4096), "per_dimension")
    assert (len(row.codes), len(row.scales), row.n_bytes) == (30_720, 4_096, 34_816)


# -- one scale per latent


def test_per_latent_error_on_gaussian_data() -> None:
    x, table = gaussian(500, 256) * 1.3, torch.full((256,), 1.3)
    assert relative_error(x, restore(quantize(x, "per_latent", table, search=False), table)) < 0.100
    assert relative_error(x, restore(quantize(x, "per_latent", table), table)) < 0.095


def test_the_table_makes_outlier_dimensions_harmless() -> None:
    spread = torch.ones(256)
    spread[[3, 77]] = 60.0
    x = gaussian(200, 256) * spread
    rest = spread == 1
    calibrated = restore(quantize(x, "per_latent", spread), spread)
    assert relative_error(x[:, rest], calibrated[:, rest]) < 0.11
    flat = torch.ones(256)
    assert relative_error(x[:, rest], restore(quantize(x, "per_latent", flat), flat)[:, rest]) > 0.8


def test_per_latent_scale_has_the_least_error_in_the_original_units() -> None:
    table = torch.logspace(-0.25, 0.25, 64)
    x = gaussian(300, 64) * table * 0.3
    scaled = x / table
    every = nf4.scale_values()[1:, None, None]
    codes = nf4.code_values()[nf4.nearest_code()(scaled / every).int()]
    errors = ((codes * every - scaled) * table).double().square().sum(-1)
    row = quantize(x, "per_latent", table)
    found = (restore(row, table) - x).double().square().sum(-1)
    # The window leaves out far scales that win now and then, by little.
    assert found.sum() < errors.amin(0).sum() * 1.02
    unweighted = ((codes * every - scaled).double().square().sum(-1)).argmin(0)
    assert found.sum() < errors[unweighted, torch.arange(300)].sum()


# -- range


@pytest.mark.parametrize("scheme", ["per_dimension", "per_latent"])
@pytest.mark.parametrize("search", [True, False])
def test_zeros_come_back_as_zeros(scheme: Scheme, search: bool) -> None:
    table = torch.ones(6) if scheme == "per_latent" else None
    row = quantize(torch.zeros(3, 6), scheme, table, search)
    assert not any(row.scales)
    assert (codes_of(row) == 7).all()
    assert not restore(row, table).any()


@pytest.mark.parametrize("scheme", ["per_dimension", "per_latent"])
def test_huge_values_saturate_and_tiny_ones_become_zero(scheme: Scheme) -> None:
    table = torch.ones(4) if scheme == "per_latent" else None
    for huge in (449.0, 1e4, 3e38):
        row = quantize(torch.full((4, 4), huge) * torch.tensor([1, -1, 1, -1]), scheme, table)
        assert set(row.scales) == {0x7E}
        assert restore(row, table)[0].tolist() == [448, -448, 448, -448]
    assert not restore(quantize(torch.full((4, 4), 2.0**-15), scheme, table), table).any()
    # Below the least scale, 2^-9, inner codes still reach.
    small = torch.full((4, 4), 0.33 * 2.0**-9)
    assert relative_error(small, restore(quantize(small, scheme, table), table)) < 0.05


def test_float16_and_float64_are_accepted() -> None:
    x = gaussian(15, 64).half()
    assert quantize(x, "per_dimension") == quantize(x.float(), "per_dimension")
    assert quantize(x, "per_dimension", search=False) == quantize(x.double(), "per_dimension", search=False)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=finite),
    st.sampled_from(["per_dimension", "per_latent"]),
    st.booleans(),
    st.floats(2.0**-20, 2.0**20, width=32),
)
@settings(deadline=None, max_examples=200)
def test_any_finite_latents_come_back_finite_and_no_larger(
    array: np.ndarray, scheme: Scheme, search: bool, unit: float
) -> None:
    x = torch.from_numpy(array)
    table = torch.full((x.shape[1],), unit) if scheme == "per_latent" else None
    restored = restore(quantize(x, scheme, table, search), table)
    assert torch.isfinite(restored).all()
    assert (restored.sign() * x.sign() >= 0).all()
    # A searched scale may exceed the maximum, but then only inner codes are used.
    least = 2.0**-9 * (1.0 if table is None else unit)
    assert (restored.abs() <= 1.5 * x.abs().amax() + least).all()


# -- batches


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["per_dimension", "per_latent"])
@pytest.mark.parametrize("search", [True, False])
def test_a_row_has_the_same_bytes_alone_and_in_any_batch(
    scheme: Scheme, search: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = torch.rand(257, generator=torch.Generator().manual_seed(3)) + 0.1
    chosen = table if scheme == "per_latent" else None
    x = (gaussian(40, 16, 257) * table).to(dtype)
    lengths = torch.randint(1, 17, (40,), generator=torch.Generator().manual_seed(4))
    for i, length in enumerate(lengths.tolist()):
        x[i, length:] = torch.nan
    rows = quantize_batch(x, lengths, scheme, chosen, search)
    for i, length in enumerate(lengths.tolist()):
        assert rows[i] == quantize(x[i, :length], scheme, chosen, search)
    assert rows[::-1] == quantize_batch(x.flip(0), lengths.flip(0), scheme, chosen, search)
    monkeypatch.setattr(schemes, "_BLOCK_VALUES", 3000)
    assert rows == quantize_batch(x, lengths.tolist(), scheme, chosen, search)
    torch.set_num_threads(2)
    try:
        assert rows == quantize_batch(x, lengths.tolist(), scheme, chosen, search)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("scheme", ["per_dimension", "per_latent"])
def test_dequantize_pads_and_does_not_mix_rows(scheme: Scheme) -> None:
    table = torch.rand(33) + 0.5 if scheme == "per_latent" else None
    rows = quantize_batch(gaussian(5, 7, 33), [7, 1, 4, 4, 2], scheme, table)
    values, lengths = dequantize(rows, table)
    assert (values.shape, values.dtype, lengths.tolist()) == ((5, 7, 33), torch.float32, [7, 1, 4, 4, 2])
    for value, row in zip(values, rows, strict=True):
        assert torch.equal(value[: row.shape[0]], restore(row, table))
        assert not value[row.shape[0] :].any()


def test_no_rows() -> None:
    assert quantize_batch(torch.zeros(0, 3, 8), [], "per_dimension") == []
    values, lengths = dequantize([])
    assert (values.shape, lengths.tolist()) == ((0, 0, 0), [])


def test_default_device_and_dtype_do_not_matter() -> None:
    x, table = gaussian(3, 5, 32), torch.full((32,), 0.7)

    def everything() -> tuple[object, ...]:
        for cached in (nf4.nearest_code, nf4.released_bfloat16_index, nf4.scale_values, nf4.pair_values):
            cached.cache_clear()
        rows = quantize_batch(x, [5, 2, 3], "per_latent", table)
        released = [quantize(row.bfloat16(), "per_dimension", search=False) for row in x]
        return rows, released, dequantize(rows, table)[0].tolist(), dequantize(released)[0].tolist()

    expected = everything()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert everything() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_latents_that_require_gradients() -> None:
    x = gaussian(4, 8).requires_grad_()
    assert quantize(x, "per_dimension") == quantize(x.detach(), "per_dimension")


# -- refusals


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("scheme", ["per_dimension", "per_latent"])
def test_non_finite_latents_are_refused_by_row(bad: float, scheme: Scheme) -> None:
    x = torch.ones(3, 4, 8)
    x[2, 1, 5] = bad
    table = torch.ones(8) if scheme == "per_latent" else None
    with pytest.raises(InvalidArgument, match=r"row 2 is not finite: latent 1, dimension 5 is -?(nan|inf)"):
        quantize_batch(x, [4, 4, 2], scheme, table)
    assert len(quantize_batch(x, [4, 4, 1], scheme, table)) == 3


def test_wrong_arguments_are_refused() -> None:
    x, table = torch.ones(2, 3, 4), torch.ones(4)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: quantize(x, "per_dimension"), r"one chunk's latents are \[L, D\]"),
        (lambda: quantize_batch(x[0], [1], "per_dimension"), r"batch of latents is .* \[B, L, D\]"),
        (lambda: quantize_batch(x.int(), [3, 3], "per_dimension"), "not torch.int32"),
        (lambda: quantize_batch(x[:, :0], [0, 0], "per_dimension"), "hold no values"),
        (lambda: quantize_batch(x, [3], "per_dimension"), "1 lengths for a batch of 2"),
        (lambda: quantize_batch(x, [3, 0], "per_dimension"), "row 1 has length 0"),
        (lambda: quantize_batch(x, [4, 3], "per_dimension"), "row 0 has length 4"),
        (lambda: quantize_batch(x, [3, 3], "int8"), "unknown scheme 'int8'"),  # type: ignore[arg-type]
        (lambda: quantize_batch(x, [3, 3], "per_dimension", table), "takes no table"),
        (lambda: quantize_batch(x, [3, 3], "per_latent"), "needs the codec's table"),
        (lambda: quantize_batch(x, [3, 3], "per_latent", torch.ones(5)), r"shape \[5\]"),
        (lambda: quantize_batch(x, [3, 3], "per_latent", table * 0), "must lie between"),
        (lambda: quantize_batch(x, [3, 3], "per_latent", table * torch.nan), "must lie between"),
    ]
    for call, message in refused:
        with pytest.raises(InvalidArgument, match=message):
            call()


def test_dequantize_refuses_what_does_not_go_together() -> None:
    wide, narrow = quantize(torch.ones(1, 4), "per_dimension"), quantize(torch.ones(1, 3), "per_dimension")
    latent = quantize(torch.ones(1, 4), "per_latent", torch.ones(4))
    for rows in ([wide, narrow], [wide, latent]):
        with pytest.raises(InvalidArgument, match=r"row 1 is .* one scheme and one width"):
            dequantize(rows)
    with pytest.raises(InvalidArgument, match="needs the codec's table"):
        dequantize([latent])
    with pytest.raises(InvalidArgument, match="as_released"):
        dequantize([latent], torch.ones(4), as_released=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scheme": "int8"}, "unknown scheme"),
        ({"shape": (0, 3)}, "at least 1"),
        ({"codes": b"\x11\x10\x11"}, "3 bytes of codes"),
        ({"scales": b"\x11"}, "1 scales"),
        ({"scales": b"\x38\x7f"}, "0x7f is negative or not a number"),
        ({"scales": b"\x80\x38"}, "0x80 is negative or not a number"),
        ({"codes": b"\x11\x11\x11\x10"}, "spare nibble"),
    ],
)
def test_quantised_latents_cannot_contradict_themselves(changed: dict[str, object], message: str) -> None:
    sound = {"scheme": "per_latent", "codes": b"\x11\x10\x11\x10", "scales": b"\x38\x38", "shape": (2, 3)}
    QuantizedLatents(**sound)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=message):
        QuantizedLatents(**sound | changed)  # type: ignore[arg-type]


def test_payloads_are_read_without_torch() -> None:
    program = (
        "import sys; from nextmem_agents.quantization import Payload, QuantizedLatents; "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
