"""One parallel pass carries the gradient that the sequential loop would."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.frames import FrameBatch, pack
from nextmem_agents.training.reconstruction import FrameCodec, reconstruction_loss
from nextmem_agents.training.scratch import build


def batch() -> FrameBatch:
    rng = np.random.default_rng(1)
    return pack([[rng.integers(3, 300, n) for n in row] for row in ([32], [7, 20, 3])], 1, 0, 4)


def sequential_latents(model: FrameCodec, frames: FrameBatch) -> Tensor:
    """The definition: recompute the whole prefix for every latent, with gradient, feeding back detached latents."""
    slots = frames.tokens.shape[1]
    embeddings = model.embed(frames.tokens)
    sod = model.embed(torch.tensor(1))
    latents: list[Tensor] = []
    for j in range(frames.starts.shape[1]):
        fed = sod.expand(len(frames.tokens), -1) if j == 0 else latents[-1].detach() * model.latent_scale
        fed = torch.where(frames.starts[:, j, None], sod, fed)
        embeddings = torch.cat([embeddings, fed[:, None]], 1)
        end = slots + j + 1
        hidden = model._hidden(
            embeddings, frames.encoder_mask[:, :, :end, :end], frames.encoder_positions[:, :end]
        )
        latents.append(hidden[:, -1])
    return torch.stack(latents, 1)


def test_values_and_gradients_equal_the_sequential_loop(settings: ScratchConfig) -> None:
    model, frames = build(settings), batch()
    weights = torch.randn(2, 8, settings.hidden_size, generator=torch.Generator().manual_seed(0))
    gradients = []
    values = []
    for latents in (model.latents(frames), sequential_latents(model, frames)):
        model.zero_grad()
        (latents * weights).sum().backward()
        values.append(latents.detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(values[0], values[1], atol=2e-5, rtol=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        difference = (gradient - gradients[1][name]).norm() / gradients[1][name].norm().clamp(min=1e-6)
        assert difference < 1e-4, name


def test_the_loss_depends_on_the_seed_alone(settings: ScratchConfig) -> None:
    def loss(seed: int) -> float:
        model = build(settings)
        generator = torch.Generator().manual_seed(seed)
        found = reconstruction_loss(
            model, batch(), corruption=0.2, noise=0.1, levels={16: 0.3, 2: 0.3}, generator=generator
        )
        return float(found[0].detach())

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def test_dimensions_that_are_not_kept_never_reach_the_decoder(settings: ScratchConfig) -> None:
    model = build(settings)
    latents = torch.randn(2, 8, settings.hidden_size, generator=torch.Generator().manual_seed(0))
    moved = model.disturb(latents, 0.0, {2: 1.0}, torch.Generator().manual_seed(0), {2: 20})
    assert (moved[..., 20:].abs() < 1e-6).all()
    assert len(moved[0, 0, :20].abs().unique()) <= 20
    kept = model.disturb(latents, 0.0, {}, torch.Generator().manual_seed(0))
    torch.testing.assert_close(kept, latents)
