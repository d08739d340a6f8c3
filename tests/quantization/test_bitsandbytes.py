"""Our NF4 is bitsandbytes' NF4."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest
import torch

from nextmem_agents.quantization import nf4


@pytest.fixture(scope="module")
def bnb() -> ModuleType:
    with warnings.catch_warnings():
        # bitsandbytes imports parts of torch that warn about themselves.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        module: ModuleType = pytest.importorskip("bitsandbytes.functional", exc_type=ImportError)
    return module


def test_same_table(bnb: ModuleType) -> None:
    assert torch.equal(bnb.get_4bit_type("nf4", device="cpu"), nf4.code_values())


@pytest.mark.parametrize(("n_latents", "dim"), [(16, 256), (15, 4096), (3, 64)])
def test_same_codes_in_the_same_nibbles(bnb: ModuleType, n_latents: int, dim: int) -> None:
    x = torch.randn(n_latents, dim, generator=torch.Generator().manual_seed(5))
    theirs, state = bnb.quantize_4bit(x, blocksize=dim, compress_statistics=False, quant_type="nf4")
    scale = x.abs().amax(-1, keepdim=True)
    assert torch.equal(state.absmax, scale[:, 0])
    codes = nf4.nearest_code()(x / scale)
    assert torch.equal(nf4.pack(codes), theirs.view(n_latents, dim // 2))
    ours = nf4.code_values()[codes.int()] * scale
    assert torch.equal(ours, bnb.dequantize_4bit(theirs, state))
