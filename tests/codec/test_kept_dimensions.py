"""A codec may keep only the first dimensions of its latents; the others come back as zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec.exact import compress, decompress
from tests.codec import tiny


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    tiny.write_whole(tmp_path / "codec", kept_dimensions=((2, 40),))
    return tmp_path / "codec"


def test_the_kept_dimensions_take_a_bit_each_and_the_others_none(sparse: Path) -> None:
    codec = LatentCodec.load(sparse, levels=2)
    latents = codec.encode(["She moved to Lisbon in May."])
    [row] = codec.quantize(latents)
    assert row.shape == (int(latents.lengths[0]), 40)
    assert row.n_bytes == 5 * int(latents.lengths[0])
    back = codec.dequantize([row]).values[0]
    assert back.shape[-1] == codec.dim
    assert not back[:, 40:].any()
    assert torch.equal(back[:, :40].sign(), latents.values[0, : len(back), :40].sign())


def test_at_other_levels_all_are_kept(sparse: Path) -> None:
    codec = LatentCodec.load(sparse)
    [row] = codec.quantize(codec.encode(["She moved to Lisbon in May."]))
    assert row.shape[1] == codec.dim


def test_texts_come_back_exactly(sparse: Path) -> None:
    codec = LatentCodec.load(sparse, levels=2)
    chunks = compress(codec, tiny.TEXTS)
    found = decompress(codec, [[chunk.payload for chunk in row] for row in chunks])
    assert [(text.text, text.exact) for text in found] == [(text, True) for text in tiny.TEXTS]


def test_the_shipped_dense_codec_is_exact_and_smaller_than_the_text() -> None:
    codec = LatentCodec.load("mini-dense")
    text = (
        "The harbour master kept two ledgers, one for the ships that came in and one for those that did not. "
        "Every evening he closed the first, opened the second, and wrote down the weather, the tide and the names "
        "that the wives had given him. By the end of the winter the second ledger was the longer of the two, and in "
        "the spring he began to read it aloud on the pier, so that nobody would be forgotten before the boats went "
        "out again."
    )
    [chunks] = compress(codec, [text])
    assert sum(len(chunk.payload.to_bytes(b"here")) for chunk in chunks) < len(text)
    [found] = decompress(codec, [[chunk.payload for chunk in chunks]])
    assert (found.text, found.exact) == (text, True)
