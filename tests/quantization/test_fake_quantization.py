"""What training sees is what is stored."""

from __future__ import annotations

import pytest
import torch

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization import dequantize, quantize_batch, round_trip
from nextmem_agents.quantization.latents import FEW_LEVELS

TABLE = torch.logspace(-0.5, 0.5, 65)
LATENTS = torch.randn(4, 6, 65, generator=torch.Generator().manual_seed(0)) * TABLE


@pytest.mark.parametrize("levels", FEW_LEVELS)
def test_few_levels_are_the_stored_form_bit_for_bit(levels: int) -> None:
    rows = quantize_batch(LATENTS, [6] * 4, "few_levels", TABLE, levels=levels)
    assert torch.equal(round_trip(LATENTS, TABLE, levels), dequantize(rows, TABLE)[0])


def test_nf4_is_the_stored_form_but_for_the_scale() -> None:
    def error(restored: torch.Tensor) -> float:
        return float(((restored - LATENTS) / TABLE).norm() / (LATENTS / TABLE).norm())

    simulated = error(round_trip(LATENTS, TABLE, 16))
    for search in (True, False):
        stored = error(dequantize(quantize_batch(LATENTS, [6] * 4, "per_latent", TABLE, search), TABLE)[0])
        assert stored == pytest.approx(simulated, rel=0.08)


@pytest.mark.parametrize("levels", [*FEW_LEVELS, 16])
def test_any_shape_and_dtype(levels: int) -> None:
    expected = round_trip(LATENTS, TABLE, levels)
    assert torch.equal(round_trip(LATENTS[1, 2], TABLE, levels), expected[1, 2])
    half = round_trip(LATENTS.bfloat16(), TABLE, levels)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, round_trip(LATENTS.bfloat16().float(), TABLE, levels).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(round_trip(LATENTS, TABLE, levels), expected)


@pytest.mark.parametrize("levels", [*FEW_LEVELS, 16])
def test_zeros_stay_finite_and_no_gradient_flows(levels: int) -> None:
    zeros = torch.zeros(2, 65, requires_grad=True)
    restored = round_trip(zeros, TABLE, levels)
    assert torch.isfinite(restored).all()
    assert not restored.requires_grad


@pytest.mark.parametrize("levels", [*FEW_LEVELS, 16])
def test_it_traces_into_one_graph(levels: int) -> None:
    compiled = torch.compile(round_trip, fullgraph=True, backend="eager")
    assert torch.equal(compiled(LATENTS, TABLE, levels), round_trip(LATENTS, TABLE, levels))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("levels", [*FEW_LEVELS, 16])
def test_devices_agree(levels: int) -> None:
    there = round_trip(LATENTS.cuda(), TABLE.cuda(), levels).cpu()
    assert torch.equal(there, round_trip(LATENTS, TABLE, levels))


@pytest.mark.parametrize("levels", [1, 5, 0, "4"])
def test_other_levels_are_refused(levels: int) -> None:
    with pytest.raises(InvalidArgument, match="2, 3, 4, 8 or 16 levels"):
        round_trip(LATENTS, TABLE, levels)
