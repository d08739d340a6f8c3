"""Latents in place of blocks of text: what the loss reads, and that one parallel pass carries its gradient."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone, shared_view
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import greedy_batch, teacher_forced_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.training.loop import checkpoint_activations
from nextmem_agents.training.substitution import Substitution, progressive_blocks
from tests.codec import tiny

TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19], [20]]
Positions = Literal["consecutive", "aligned"]


def module(positions: Positions = "aligned", **options: object) -> Substitution:
    decoder = tiny.model(hidden=32).requires_grad_(False)
    encoder = shared_view(decoder)
    for (
        layer
    ) in encoder.model.layers:  # the encoder learns; the decoder's weights are the same tensors' copies
        layer.mlp.down_proj.weight = torch.nn.Parameter(layer.mlp.down_proj.weight.clone())
    config = CodecConfig("t", 1, 0, tokens_per_latent=4, positions=positions, latent_scale=0.2)
    addition = torch.randn(32, generator=torch.Generator().manual_seed(5))
    options = {"block_tokens": 4, "blocks": lambda step: 3, "addition": addition} | options
    return Substitution(encoder, decoder, config, **options)  # type: ignore[arg-type]


def sequential_latents(model: Substitution, texts: list[list[int]], blocks: int) -> list[list[Tensor]]:
    """The definition: text by text, the whole prefix anew for each latent, with gradient; what is fed back is
    detached.
    """
    found = []
    for text in texts:
        count = model.counts([text], blocks)[0][0]
        batch = model.encoder_batch([text], count)
        n = batch.ids.shape[1]
        embeddings = torch.cat([model.embed(batch.ids), model.start_embedding(batch.start)], 1)
        positions = torch.cat([batch.text_positions, batch.step_positions], 1)
        latents: list[Tensor] = []
        for j in range(count):
            hidden = model.encoder.model(
                inputs_embeds=embeddings,
                # Without a mask, transformers takes positions that start anew for another text's.
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64),
                position_ids=positions[:, : n + 1 + j],
                use_cache=False,
            ).last_hidden_state
            latents.append(hidden[0, -1])
            embeddings = torch.cat([embeddings, model.feed(latents[-1].detach())[None, None]], 1)
        found.append(latents)
    return found


@pytest.mark.parametrize("positions", ["aligned", "consecutive"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_values_and_gradients_equal_the_sequential_loop(positions: Positions, blocks: int) -> None:
    model = module(positions)
    weights = torch.randn(len(TEXTS), 3, 32, generator=torch.Generator().manual_seed(0))
    values, gradients = [], []
    parallel = model.latents(TEXTS, blocks)
    counts = model.counts(TEXTS, blocks)[0]
    for rows in (
        [[parallel[i, j] for j in range(n)] for i, n in enumerate(counts)],
        sequential_latents(model, TEXTS, blocks),
    ):
        model.zero_grad()
        total = sum((z * weights[i, j]).sum() for i, row in enumerate(rows) for j, z in enumerate(row))
        assert isinstance(total, Tensor)
        total.backward()
        values.append(torch.stack([z.detach() for row in rows for z in row]))
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(values[0], values[1], atol=2e-5, rtol=1e-4)
    assert len(gradients[0]) == 2
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).norm() < 1e-4 * gradients[1][name].norm(), name


def test_gradient_checkpointing_changes_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        model = module()
        if checkpointing:
            for role in (model.encoder, model.decoder):
                checkpoint_activations(role)
        rows = [torch.tensor(text).numpy() for text in TEXTS]
        loss, _ = model(rows, 0)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("positions", ["aligned", "consecutive"])
def test_training_reads_and_writes_as_the_codec_does(positions: Positions) -> None:
    model = module(positions)
    start = torch.tensor([1])
    special = SpecialTokens(start, model.embed(start), model.addition[None])
    encoder, decoder = Backbone(model.encoder, special), Backbone(model.decoder, special)
    values, lengths = encode_batch(encoder, model.config, TEXTS)
    trained = model.latents(TEXTS, 3)
    assert model.counts(TEXTS, 3) == (lengths.tolist(), [len(text) for text in TEXTS])
    for row, latents, n in zip(trained, values, lengths.tolist(), strict=True):
        torch.testing.assert_close(row[:n], latents[:n], atol=2e-5, rtol=1e-4)
    inputs = torch.zeros((len(TEXTS), 9), dtype=torch.int64)
    for i, text in enumerate(TEXTS):
        inputs[i, : len(text)] = torch.tensor(text)
    predicted, _ = teacher_forced_batch(decoder, model.config, values, lengths, TEXTS)
    best = model.logits(TEXTS, trained, 3, inputs).argmax(-1)
    assert [row[: len(text)].tolist() for row, text in zip(best, TEXTS, strict=True)] == predicted
    written = greedy_batch(
        decoder, model.config, values, lengths, steps=[len(t) for t in TEXTS], stop_at_end=False
    )
    assert model.repeat(TEXTS, 3) == written


def test_padding_changes_no_loss() -> None:
    for start in (True, False):
        model = module("consecutive", start_of_decode=start)
        rows = [torch.tensor(text).numpy() for text in TEXTS[:3]]
        together, _ = model(rows, 0)
        alone = [(float(model([row], 0)[0].detach()), len(row) + 1) for row in rows]
        mean = sum(loss * n for loss, n in alone) / sum(n for _, n in alone)
        assert float(together.detach()) == pytest.approx(mean, rel=1e-4)


def test_blocks_are_replaced_from_the_front() -> None:
    model = module()
    assert model.counts(TEXTS, 0) == ([0, 0, 0, 0], [0, 0, 0, 0])
    assert model.counts(TEXTS, 1) == ([1, 1, 1, 1], [4, 2, 4, 1])
    assert model.counts(TEXTS, 2) == ([2, 1, 1, 1], [8, 2, 4, 1])
    assert model.counts(TEXTS, 3) == ([3, 1, 1, 1], [9, 2, 4, 1])


def test_fifteen_latents_as_in_the_paper() -> None:
    model = module("consecutive", block_tokens=16)
    model.config = CodecConfig("t", 1, 0, tokens_per_latent=None, fixed_latents=15, positions="consecutive")
    text = list(range(5, 105))
    assert model.counts([text], 2) == ([2], [32])
    assert model.counts([text], 14) == ([14], [100])
    assert model.counts([text], 15) == ([15], [100])
    assert model.latents([text, text[:3]], 15).shape == (2, 15, 32)


def test_corruption_and_noise_leave_what_they_should() -> None:
    model = module(corruption=0.5, latent_noise=0.1)
    inputs = torch.full((20, 50), 3)
    share = (model.corrupt(inputs) != 3).float().mean()
    assert 0.1 < share < 0.4
    latents = torch.randn(20, 3, 32, requires_grad=True)
    moved = model.disturb(latents)
    assert 0 < (moved - latents).square().mean().sqrt() < 0.1
    moved.sum().backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, torch.ones_like(latents))


def test_the_steps_grow_to_all_blocks() -> None:
    steps = [progressive_blocks(step, 150, 15, 1 / 15) for step in range(150)]
    assert steps[0] == 1
    assert steps[-10:] == [15] * 10
    assert [steps.count(k) for k in range(1, 16)] == [10] * 15
    assert progressive_blocks(0, 10, 1, 0.0) == 1
