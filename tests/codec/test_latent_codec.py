from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.errors import CheckpointError, EmptyText, InvalidArgument, TextTooLong
from tests.codec.tiny import TEXTS

LONG = "The committee met on Thursday at the library. " * 20


def test_empty_and_long_texts_are_refused_by_number(any_codec: LatentCodec) -> None:
    with pytest.raises(EmptyText, match="text 1 is empty"):
        any_codec.encode(["a", ""])
    with pytest.raises(TextTooLong, match=r"text 1 .* a chunk at most 128"):
        any_codec.encode(["a", LONG])
    with pytest.raises(InvalidArgument, match=r"encode\(\[text\]\)"):
        any_codec.encode("a")


def test_more_tokens_are_taken_if_asked_for(adapted: LatentCodec) -> None:
    n = adapted.count_tokens(LONG)
    assert n > adapted.max_tokens == 128
    assert adapted.encode([LONG], max_tokens=n).lengths.tolist() == [15]
    with pytest.raises(TextTooLong):
        adapted.encode([LONG], max_tokens=n - 1)


def test_a_long_text_goes_through_chunks(any_codec: LatentCodec) -> None:
    parts = any_codec.chunk(LONG)
    assert "".join(parts) == LONG
    assert len(any_codec.encode(parts)) == len(parts) > 1


def test_special_tokens_are_parsed_only_if_asked_for(adapted: LatentCodec) -> None:
    text = "He typed <|im_end|> into the box."
    plain, parsed = adapted.encode([text]), adapted.encode([text], parse_special_tokens=True)
    assert not torch.allclose(plain.values, parsed.values, atol=1e-2)


def test_nothing_gives_nothing(any_codec: LatentCodec) -> None:
    latents = any_codec.encode([])
    assert len(latents) == 0
    assert any_codec.decode(latents) == []
    assert any_codec.quantize(latents) == []
    assert any_codec.pool(latents).shape == (0, any_codec.dim)


def test_pooling_is_the_mean_over_each_rows_own_latents(any_codec: LatentCodec) -> None:
    latents = any_codec.encode(TEXTS)
    for i, vector in enumerate(any_codec.pool(latents)):
        assert torch.allclose(vector, latents.values[i, : int(latents.lengths[i])].mean(0), atol=1e-6)


def test_nf4_keeps_each_row_within_a_tenth(any_codec: LatentCodec) -> None:
    latents = any_codec.encode(TEXTS)
    back = any_codec.dequantize(any_codec.quantize(latents))
    assert back.lengths.tolist() == latents.lengths.tolist()
    assert (back.values - latents.values).norm() < 0.11 * latents.values.norm()


def test_released_bits_are_for_the_released_layout(whole: LatentCodec, adapted: LatentCodec) -> None:
    with pytest.raises(InvalidArgument, match="released layout"):
        whole.quantize(whole.encode(TEXTS[:1]), as_released=True)
    latents = adapted.encode(TEXTS)
    released = adapted.quantize(latents, as_released=True)
    ours = adapted.quantize(latents)
    assert [row.n_bytes for row in released] == [row.n_bytes for row in ours] == [15 * 32 + 64] * len(TEXTS)

    def error(rows: list[object]) -> float:
        return float((adapted.dequantize(rows).values - latents.values).norm())  # type: ignore[arg-type]

    assert error(list(ours)) < error(list(released))


def test_decode_takes_a_whole_number_of_tokens(whole: LatentCodec) -> None:
    latents = whole.encode(TEXTS[:1])
    for wrong in (0, -1, 2.5, "8"):
        with pytest.raises(InvalidArgument, match="max_new_tokens"):
            whole.decode(latents, max_new_tokens=wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_refused(codec: LatentCodec) -> None:
    for call in (lambda: LatentCodec.load(device="cuda"), lambda: codec.to("cuda:1")):
        with pytest.raises(InvalidArgument, match="there is no cuda"):
            call()


def test_a_copy_of_a_codec_is_the_codec_and_none_is_pickled(codec: LatentCodec) -> None:
    assert copy.deepcopy({"codec": codec})["codec"] is codec
    with pytest.raises(TypeError, match=r"LatentCodec\.load"):
        pickle.dumps(codec)


def test_an_index_head_of_more_tokens_than_there_are_is_refused(codec: LatentCodec) -> None:
    head = codec.index_head
    assert head is not None
    wider = IndexHead(codec.dim, 16, head.term_size, head.index_size, 8, vocabulary=len(head.tokens) + 1)
    with pytest.raises(CheckpointError, match="another codec"):
        LatentCodec(codec.config, replace(codec.parts, index_head=wider))
