"""Latents moved until the decoder gives their text back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec import refinement
from nextmem_agents.codec.decoder import teacher_forced_batch
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.repair import MARGIN
from nextmem_agents.errors import CheckpointError, CodecMismatch, InvalidArgument
from nextmem_agents.evaluation.reconstruction import measure
from tests.codec import tiny

NOTES = [
    "Ann moved from Lisbon to Porto on 14 May 2021, where her sister Maria had found her a flat.",
    "The harbour master kept two ledgers.",
    "She has two cats, Miso and Tuna, and rides a very old bicycle to the market on Saturdays.",
]


def lost(codec: LatentCodec, latents: Latents, ids: list[list[int]]) -> list[int]:
    """How many tokens of each row would need a repair."""
    kept = codec.dequantize(codec.quantize(latents))
    _, leads = teacher_forced_batch(codec.decoder, codec.config, kept.values, kept.lengths, ids)
    return [sum(lead < MARGIN for lead in row) for row in leads]


@pytest.fixture(scope="module")
def coarse() -> LatentCodec:
    """`mini` at one bit a number, at which it loses tokens."""
    return LatentCodec.load("mini", levels=2, refinement_steps=60)


def test_refined_latents_decode_to_texts_that_the_encoders_do_not(coarse: LatentCodec) -> None:
    ids = coarse.tokenizer.encode(NOTES)
    latents = coarse.encode_ids(ids)
    before = latents.values.clone()
    refined = coarse.refine(latents, ids)
    assert sum(lost(coarse, latents, ids)) > 0
    assert lost(coarse, refined, ids) == [0, 0, 0]
    assert torch.equal(latents.values, before)
    assert not refined.values.requires_grad
    assert refined.lengths.tolist() == latents.lengths.tolist()
    for row, length in zip(refined.values, refined.lengths.tolist(), strict=True):
        assert not row[length:].any()


def test_only_texts_that_would_need_a_repair_are_refined(coarse: LatentCodec) -> None:
    texts = ["The cat sat on the mat.", NOTES[0], "It was a cold day.", NOTES[2]]
    ids = coarse.tokenizer.encode(texts)
    encoded = coarse.quantize(coarse.encode_ids(ids))
    needed = [n > 0 for n in lost(coarse, coarse.encode_ids(ids), ids)]
    assert sorted(set(needed)) == [False, True]
    for chunks, codes, moved in zip(compress(coarse, texts), encoded, needed, strict=True):
        payload = chunks[0].payload
        assert payload.repair == ()
        assert payload.latents is not None
        assert (payload.latents.codes != codes.codes) == moved


def test_a_short_row_goes_on_when_the_longest_is_done(coarse: LatentCodec) -> None:
    short, long = ids = coarse.tokenizer.encode(["Xyloq 7, zebu 93.", NOTES[0]])
    done = coarse.refine(coarse.encode_ids([long]), [long]).values[0]
    latents = coarse.encode_ids(ids)
    latents.values[1] = done
    assert lost(coarse, latents, ids)[0] > lost(coarse, latents, ids)[1] == 0
    refined = coarse.refine(latents, ids)
    assert lost(coarse, refined, ids) == [0, 0]
    assert torch.equal(refined.values[1], done)
    assert len(short) < len(long)


def test_a_text_that_comes_back_already_is_left_as_it_is() -> None:
    codec = LatentCodec.load("mini", refinement_steps=5)
    ids = codec.tokenizer.encode(NOTES)
    latents = codec.encode_ids(ids)
    assert lost(codec, latents, ids) == [0, 0, 0]
    # A lead may still be short of what is wanted; what is stored is never worse.
    assert lost(codec, codec.refine(latents, ids), ids) == [0, 0, 0]
    plain = LatentCodec.load("mini", refinement_steps=0)
    assert plain.refine(latents, ids) is latents


def test_what_is_stored_is_refined_and_its_text_exact(coarse: LatentCodec) -> None:
    plain = LatentCodec.load("mini", levels=2)
    assert coarse.fingerprint == plain.fingerprint != LatentCodec.load("mini").fingerprint
    payloads = [[chunk.payload for chunk in row] for row in compress(coarse, NOTES)]
    assert all(not payload.repair for row in payloads for payload in row)
    assert any(payload.repair for row in compress(plain, NOTES) for payload in [row[0].payload])
    # Who reads them need know nothing of it.
    assert [found.text for found in decompress(plain, payloads)] == NOTES
    measured, raw = measure(coarse, NOTES), measure(plain, NOTES)
    assert measured.quantised.exact == 1.0 > raw.quantised.exact
    assert measured.unquantised == raw.unquantised


def test_a_row_does_not_depend_on_those_beside_it(coarse: LatentCodec) -> None:
    ids = coarse.tokenizer.encode(NOTES)
    together = coarse.refine(coarse.encode_ids(ids), ids)
    for i, row in enumerate(ids):
        alone = coarse.refine(coarse.encode_ids([row]), [row])
        assert lost(coarse, alone, [row]) == [0]
        n = int(alone.lengths[0])
        assert float((alone.values[0] - together.values[i, :n]).norm() / alone.values[0].norm()) < 0.2


@pytest.mark.parametrize("kind", ["whole", "official"])
@pytest.mark.parametrize("fuse", [True, False])
def test_no_codec_is_worse_for_it(
    kind: str, fuse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "STEP", 0.3)  # random weights have far to go
    if kind == "whole":
        tiny.write_whole(tmp_path / "codec", kept_dimensions=((2, 40),))
        codec = LatentCodec.load(tmp_path / "codec", levels=2)
    else:
        codec = LatentCodec.load_official(*tiny.write_official(tmp_path))
    codec.config = dataclasses.replace(codec.config, refinement_steps=20)
    if not fuse:
        codec.decoder = type(codec.decoder)(codec.decoder.model, codec.decoder.special_tokens)
    ids = [row for row in codec.tokenizer.encode(tiny.TEXTS) if row]
    latents = codec.encode_ids(ids)
    with torch.inference_mode():  # in which a worker may call
        refined = codec.refine(latents, ids)
    before, after = lost(codec, latents, ids), lost(codec, refined, ids)
    assert all(a <= b for a, b in zip(after, before, strict=True))
    assert sum(after) < sum(before)


def test_rows_are_refined_in_batches_of_so_many_tokens(
    coarse: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    inner = refinement.Refinement._of_batch
    monkeypatch.setattr(refinement, "_TOKENS", 64)
    monkeypatch.setattr(
        refinement.Refinement, "_of_batch", lambda *given: sizes.append(len(given[2])) or inner(*given)
    )
    ids = coarse.tokenizer.encode(NOTES)
    assert lost(coarse, coarse.refine(coarse.encode_ids(ids), ids), ids) == [0, 0, 0]
    assert sum(sizes) == 3
    assert len(sizes) > 1


def test_the_number_of_steps_is_saved_and_checked(tmp_path: Path, coarse: LatentCodec) -> None:
    coarse.save_pretrained(tmp_path / "coarse")
    again = LatentCodec.load(tmp_path / "coarse")
    assert (again.config.refinement_steps, again.config.levels) == (60, 2)
    assert LatentCodec.load(tmp_path / "coarse", refinement_steps=0).config.refinement_steps == 0
    with pytest.raises(InvalidArgument, match="refinement_steps is a whole number from 0, not -1"):
        LatentCodec.load("mini", refinement_steps=-1)
    values = json.loads((tmp_path / "coarse" / "nextmem.json").read_text(encoding="utf-8"))
    (tmp_path / "coarse" / "nextmem.json").write_text(json.dumps(values | {"refinement_steps": "many"}))
    with pytest.raises(CheckpointError, match="refinement_steps"):
        LatentCodec.load(tmp_path / "coarse")
    with pytest.raises(CodecMismatch):
        coarse.refine(LatentCodec.load("mini").encode(["Ann"]), [[5]])
