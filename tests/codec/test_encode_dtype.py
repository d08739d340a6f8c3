"""Texts that are encoded in products of bfloat16, beside float32 weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.codec.matrix import GAINS_BY_BFLOAT16
from nextmem_agents.errors import InvalidArgument
from tests.codec import tiny

TEXTS = [text for text in tiny.TEXTS if text.strip()] * 3


@pytest.fixture(scope="module")
def rounding() -> LatentCodec:
    return LatentCodec.load(encode_dtype="bfloat16")


@pytest.fixture(scope="module")
def whole_products() -> LatentCodec:
    return LatentCodec.load(encode_dtype="float32")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_latents_move_far_less_than_quantisation_moves_them(
    rounding: LatentCodec, whole_products: LatentCodec
) -> None:
    found, expected = rounding.encode(TEXTS), whole_products.encode(TEXTS)
    stored = whole_products.dequantize(whole_products.quantize(expected))
    moved = relative(found.values, expected.values)
    assert 0 < moved < 0.01
    assert moved < relative(stored.values, expected.values) / 8
    assert rounding.fingerprint == whole_products.fingerprint


def test_the_text_comes_back_from_either_in_either(
    rounding: LatentCodec, whole_products: LatentCodec
) -> None:
    for writer, reader in ((rounding, whole_products), (whole_products, rounding)):
        payloads = [[chunk.payload for chunk in chunks] for chunks in compress(writer, TEXTS)]
        assert any(payload.latents is not None for chunks in payloads for payload in chunks)
        found = decompress(reader, payloads)
        assert [each.text for each in found] == TEXTS
        assert all(each.exact for each in found)


def test_decoding_is_float32_in_any_case(rounding: LatentCodec, whole_products: LatentCodec) -> None:
    latents = whole_products.encode(TEXTS)
    assert rounding.profile == whole_products.profile == "float32/cpu"
    assert rounding.decode(latents) == whole_products.decode(latents)
    hidden = []
    for codec in (rounding, whole_products):
        prompt = latents.values[:, :2] * codec.config.latent_scale
        mask = torch.ones(len(prompt), prompt.shape[1], dtype=torch.int64)
        hidden.append(codec.decoder.hidden(prompt, mask, mask.cumsum(1) - 1))
    assert torch.equal(*hidden)


def test_left_out_it_is_what_the_processor_is_fast_at(
    rounding: LatentCodec, whole_products: LatentCodec
) -> None:
    found = LatentCodec.load().encode(TEXTS)
    assert torch.equal(found.values, (rounding if GAINS_BY_BFLOAT16 else whole_products).encode(TEXTS).values)


@pytest.mark.parametrize("encode_dtype", [None, "float32", torch.bfloat16])
def test_a_codec_with_adapters_rounds_only_when_told(encode_dtype: object, tmp_path: Path) -> None:
    folders = tiny.write_official(tmp_path / "official", hidden=256)
    LatentCodec.load_official(*folders).save_pretrained(tmp_path / "codec")
    plain = LatentCodec.load_official(*folders).encode(TEXTS).values
    found = LatentCodec.load(tmp_path / "codec", encode_dtype=encode_dtype).encode(TEXTS).values  # type: ignore[arg-type]
    assert torch.equal(found, plain) == (encode_dtype != torch.bfloat16)
    assert relative(found, plain) < 0.05


@pytest.mark.parametrize(
    ("dtype", "encode_dtype"),
    [("float32", "float16"), ("bfloat16", "float32"), ("float32", "int8"), ("float32", "nothing")],
)
def test_types_that_do_not_go_together_are_refused(dtype: str, encode_dtype: str) -> None:
    with pytest.raises(InvalidArgument, match="encode_dtype"):
        LatentCodec.load(dtype=dtype, encode_dtype=encode_dtype)


def test_beside_bfloat16_it_may_be_said_again() -> None:
    assert (
        LatentCodec.load(dtype="bfloat16", encode_dtype="bfloat16").encode(["Anna"]).values.isfinite().all()
    )
