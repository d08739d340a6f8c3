"""Packing changes no number: a text's latents and logits in a frame are those it has alone."""

from __future__ import annotations

import numpy as np
import torch

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import teacher_forced_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.frames import pack
from nextmem_agents.training.scratch import build

LENGTHS = [[32], [5, 12, 9], [1, 1, 20, 4]]


def texts() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.integers(3, 300, n) for n in row] for row in LENGTHS]


def test_a_frame_is_full_and_its_inputs_are_its_tokens_shifted() -> None:
    batch = pack(texts(), 1, 0, 4)
    assert batch.tokens.shape == (3, 32)
    assert batch.starts.sum(1).tolist() == [1, 3, 4]
    assert (batch.inputs == 1).sum(1).tolist() == [1, 3, 4]
    assert torch.equal(batch.inputs[0, 1:], batch.tokens[0, :-1])


def test_packed_latents_are_the_codecs_own(settings: ScratchConfig) -> None:
    model = build(settings)
    frames = texts()
    batch = pack(frames, 1, 0, settings.tokens_per_latent)
    packed = model.latents(batch).detach()
    config = CodecConfig("tiny", 1, 0, max_tokens=32, tokens_per_latent=4, latent_scale=settings.latent_scale)
    for frame, latents in zip(frames, packed, strict=True):
        position = 0
        for text in frame:
            alone, lengths = encode_batch(Backbone(model.backbone), config, [text.tolist()])
            torch.testing.assert_close(
                latents[position : position + int(lengths)], alone[0], atol=2e-5, rtol=1e-4
            )
            position += int(lengths)


def test_packed_logits_predict_as_the_codecs_decoder(settings: ScratchConfig) -> None:
    model = build(settings)
    text = texts()[1][1]
    batch = pack([[text, np.arange(3, 23)]], 1, 0, 4)
    latents = model.latents(batch).detach()
    logits = model.backbone.lm_head(model.states(batch, latents, batch.inputs)).detach()
    config = CodecConfig("tiny", 1, 0, max_tokens=32, tokens_per_latent=4, latent_scale=settings.latent_scale)
    predicted, _ = teacher_forced_batch(
        Backbone(model.backbone), config, latents[:, :3], torch.tensor([3]), [text.tolist()]
    )
    assert logits[0, : len(text)].argmax(-1).tolist() == predicted[0]
