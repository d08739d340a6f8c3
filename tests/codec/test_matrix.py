from __future__ import annotations

import pytest
import torch

from nextmem_agents.codec.matrix import _PACKS, Matrix


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(512, 1024), (64, 48)])
@pytest.mark.parametrize("rows", [1, 2, 32, 256, 257])
def test_a_product_is_the_same_whichever_way_it_is_made(rows: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(rows)
    x, weight, summand = torch.randn(rows, 1, shape[0]), torch.randn(shape), torch.randn(rows, 1, shape[1])
    before = summand.clone()
    for pack in (True, False):
        matrix = Matrix(weight, pack)
        for found, expected in (
            (matrix.times(x), x @ weight),
            (matrix.times(x[:, 0]), x[:, 0] @ weight),
            (matrix.times_plus(x, summand), x @ weight + summand),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
            assert found.is_contiguous()
    assert torch.equal(summand, before)


def test_only_a_large_matrix_of_float32_has_a_second_copy() -> None:
    assert Matrix.packs(torch.empty(1024, 512)) is _PACKS
    assert not Matrix.packs(torch.empty(512, 512))
    assert not Matrix.packs(torch.empty(1024, 512, dtype=torch.bfloat16))
