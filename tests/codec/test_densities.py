"""One set of weights, several densities: each is a codec of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.errors import CheckpointError, CodecMismatch, InvalidArgument
from tests.codec import tiny
from tests.codec.tiny import TEXTS

SENTENCE = "The committee met on Thursday at the library."


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    tiny.write_whole(folder, densities=(4, 8, 16))
    return folder


def test_the_density_is_chosen_at_load(dense: Path) -> None:
    own = LatentCodec.load(dense)
    n = own.count_tokens(SENTENCE)
    for ratio in (4, 8, 16):
        codec = LatentCodec.load(dense, tokens_per_latent=ratio)
        assert codec.encode([SENTENCE]).lengths.tolist() == [-(-n // ratio)]
    assert own.config.tokens_per_latent == 8


@pytest.mark.parametrize(("levels", "n_bytes"), [(3, 13), (4, 16), (8, 24), (16, 33)])
def test_the_levels_are_chosen_at_load(dense: Path, levels: int, n_bytes: int) -> None:
    codec = LatentCodec.load(dense, levels=levels)
    latents = codec.encode([SENTENCE])
    [row] = codec.quantize(latents)
    assert (row.levels, row.n_bytes) == (levels, n_bytes * int(latents.lengths[0]))
    back = codec.dequantize([row])
    assert back.values.shape == latents.values.shape
    assert back.fingerprint == codec.fingerprint


def test_each_density_has_a_fingerprint_of_its_own(dense: Path) -> None:
    chosen: list[dict[str, Any]] = [
        {"tokens_per_latent": ratio, "levels": levels} for ratio in (4, 8, 16) for levels in (2, 3, 4, 8, 16)
    ]
    prints = [LatentCodec.load(dense, **options).fingerprint for options in chosen]
    assert len(set(prints)) == len(prints)
    assert LatentCodec.load(dense).fingerprint == prints[chosen.index({"tokens_per_latent": 8, "levels": 16})]


def test_what_one_density_wrote_another_does_not_read(dense: Path) -> None:
    here, there = LatentCodec.load(dense), LatentCodec.load(dense, tokens_per_latent=16, levels=3)
    with pytest.raises(CodecMismatch):
        there.decode(here.encode([SENTENCE]))
    [[chunk]] = compress(here, [SENTENCE])
    with pytest.raises(CodecMismatch):
        decompress(there, [[chunk.payload]])


@pytest.mark.parametrize("levels", [2, 3, 4, 8])
def test_texts_come_back_exactly_from_few_levels(dense: Path, levels: int) -> None:
    codec = LatentCodec.load(dense, tokens_per_latent=16, levels=levels)
    chunks = compress(codec, TEXTS)
    read = decompress(codec, [[chunk.payload for chunk in row] for row in chunks])
    assert [text.text for text in read] == TEXTS
    assert all(text.exact for text in read)


def test_the_declared_densities_change_no_fingerprint(dense: Path, whole: LatentCodec) -> None:
    assert LatentCodec.load(dense).fingerprint == whole.fingerprint


def test_a_codec_saved_at_a_density_has_it_as_its_own(dense: Path, tmp_path: Path) -> None:
    codec = LatentCodec.load(dense, tokens_per_latent=16, levels=4)
    codec.save_pretrained(tmp_path / "saved")
    saved = LatentCodec.load(tmp_path / "saved")
    assert saved.fingerprint == codec.fingerprint
    assert (saved.config.tokens_per_latent, saved.config.levels) == (16, 4)
    assert LatentCodec.load(tmp_path / "saved", tokens_per_latent=8, levels=16).fingerprint == (
        LatentCodec.load(dense).fingerprint
    )


def test_a_density_survives_a_change_of_profile(dense: Path) -> None:
    codec = LatentCodec.load(dense, tokens_per_latent=16, levels=4)
    elsewhere = codec.in_profile("bfloat16/cpu")
    assert elsewhere.config == codec.config
    assert elsewhere.fingerprint == codec.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens_per_latent": 32}, "was trained for 4 or 8 or 16 tokens per latent, not 32"),
        ({"tokens_per_latent": 0}, "not 0"),
        ({"levels": 5}, "levels must be 2, 3, 4, 8 or 16, not 5"),
        ({"levels": 256}, "levels must be 2, 3, 4, 8 or 16"),
    ],
)
def test_what_a_codec_was_not_trained_for_is_refused(
    dense: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        LatentCodec.load(dense, **options)


def test_a_codec_of_one_density_says_so(whole: LatentCodec, fixed: LatentCodec) -> None:
    assert whole.folder is not None
    assert fixed.folder is not None
    with pytest.raises(InvalidArgument, match="for 8 tokens per latent, not 16"):
        LatentCodec.load(whole.folder, tokens_per_latent=16)
    with pytest.raises(InvalidArgument, match="for 5 latents, whatever the text, not 8"):
        LatentCodec.load(fixed.folder, tokens_per_latent=8)
    assert LatentCodec.load(whole.folder, tokens_per_latent=8, levels=16).fingerprint == whole.fingerprint


def test_the_released_layout_has_no_few_levels() -> None:
    released = CodecConfig("x", 1, 0, quantization="per_dimension")
    assert released.at(levels=16) is released
    with pytest.raises(InvalidArgument, match="no quantization_table"):
        released.at(levels=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization": "few_levels"},
        {"quantization": "few_levels", "quantization_levels": 16},
        {"quantization": "few_levels", "quantization_levels": 5},
        {"quantization_levels": 4},
        {"quantization_levels": 16},
        {"densities": (16,)},
        {"densities": (0, 8)},
        {"densities": ("8", 8)},
        {"tokens_per_latent": None, "fixed_latents": 15, "positions": "consecutive", "densities": (8,)},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        CodecConfig(**{"name": "x", "start_of_decode": 1, "end_of_text": 0, **changes})


def test_older_configurations_are_read_as_they_were(whole: LatentCodec, tmp_path: Path) -> None:
    assert whole.folder is not None
    values = json.loads((whole.folder / "nextmem.json").read_text())
    del values["densities"], values["quantization_levels"]
    (tmp_path / "nextmem.json").write_text(json.dumps(values))
    assert CodecConfig.load(tmp_path) == whole.config
    (tmp_path / "nextmem.json").write_text(json.dumps(values | {"densities": [8, "x"]}))
    with pytest.raises(CheckpointError, match="densities are whole numbers"):
        CodecConfig.load(tmp_path)


def test_reading_few_levels_is_bit_stable(dense: Path) -> None:
    """Rows read alone and together give the same latents: decoding must not depend on the batch."""
    codec = LatentCodec.load(dense, levels=3)
    rows = codec.quantize(codec.encode(TEXTS))
    together = codec.dequantize(rows)
    for i, row in enumerate(rows):
        assert torch.equal(codec.dequantize([row]).values[0], together.values[i, : row.shape[0]])
