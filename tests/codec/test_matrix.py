from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from nextmem_agents.codec import matrix as matrices
from nextmem_agents.codec.matrix import _PACKS, Bfloat16Matrix, EmulatedBfloat16Matrix, Matrix


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
    assert not Matrix.packs(torch.empty(1024, 512, dtype=torch.float16))


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(512, 1024), (64, 48)])
@pytest.mark.parametrize("rows", [1, 2, 8, 32, 257])
@pytest.mark.parametrize("pack", [True, False])
def test_bfloat16_is_widened_and_only_rows_are_rounded(
    rows: int, shape: tuple[int, int], pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "_WIDENED", 1000)  # in several parts
    torch.manual_seed(rows)
    x, summand = torch.randn(rows, 1, shape[0]), torch.randn(rows, 1, shape[1])
    weight = torch.randn(shape[::-1]).bfloat16().t()
    matrix = EmulatedBfloat16Matrix(weight, pack)
    expected = x.bfloat16().double() @ weight.double()
    # One row, and a few where there is no float32 copy, come as bfloat16: 8 bits.
    rounded = rows == 1 or (rows == 2 and not pack)
    tolerance = 2**-8 if rounded else 1e-5
    for found, true in (
        (matrix.times(x), expected),
        (matrix.times(x[:, 0]), expected[:, 0]),
        (matrix.times_plus(x, summand), expected + summand),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), true, rtol=tolerance, atol=tolerance * 10)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(512, 1024), (64, 48)])
@pytest.mark.parametrize("rows", [1, 2, 32, 257])
@pytest.mark.parametrize("pack", [True, False])
def test_bfloat16_is_rounded_once_before_and_once_after(
    rows: int, shape: tuple[int, int], pack: bool
) -> None:
    torch.manual_seed(rows)
    x, summand = torch.randn(rows, 1, shape[0]), torch.randn(rows, 1, shape[1])
    weight = torch.randn(shape[::-1]).bfloat16().t()
    matrix = Bfloat16Matrix(weight, pack)
    expected = x.bfloat16().double() @ weight.double()
    for found, true in ((matrix.times(x), expected), (matrix.times_plus(x, summand), expected + summand)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), true, rtol=2**-8, atol=0.04)


@pytest.mark.parametrize("kind", [Bfloat16Matrix, EmulatedBfloat16Matrix])
def test_bfloat16_carries_the_gradient_of_its_rows(kind: type[Matrix]) -> None:
    matrix = kind(torch.randn(48, 64).bfloat16().t())
    for rows in (1, 3, 12):
        x = torch.randn(rows, 64, requires_grad=True)
        matrix.times(x).sum().backward()
        expected = matrix.weight.float().sum(1).expand(rows, -1)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("value", "packs"), [("BF16", False), ("strict", True), (None, True)])
def test_nothing_is_packed_where_onednn_is_told_to_round(value: str | None, packs: bool) -> None:
    program = "from nextmem_agents.codec import matrix; print(matrix._ROUNDS)"
    told = {} if value is None else {"ONEDNN_DEFAULT_FPMATH_MODE": value}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | told, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == str(not packs)


def test_what_is_not_packed_is_multiplied_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "_ROUNDS", True)
    weight = torch.randn(1024, 1024)
    x = torch.randn(4, 1024)
    assert Matrix(weight).is_plain
    assert torch.allclose(Matrix(weight).times(x), x @ weight, atol=1e-3)
