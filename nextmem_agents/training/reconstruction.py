"""The reconstruction loss of a codec trained from scratch, with the gradient of all latents in one pass.

The latents are autoregressive: each is fed back as the next input embedding. The fed-back value is detached
(letting gradient through it changed nothing in our measurements). So the text is read once, with gradient; single
steps without gradient over its keys and values compute the latents; and one parallel pass over all steps then gives the
same values with their gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from nextmem_agents.quantization.fake_quantization import round_trip
from nextmem_agents.training.frames import FrameBatch
from nextmem_agents.training.token_loss import token_loss

KeyValues = list[tuple[Tensor, Tensor]]
"""Of each layer, [B, heads, T, width]."""


class FrameCodec(nn.Module):
    """A Qwen3 causal LM in both roles, over packed frames.

    ``backbone`` is a ``Qwen3ForCausalLM`` with a tied head; ``latent_scale`` the learned scalar between a
    final hidden state and an input embedding.
    """

    mean_square: Tensor
    accuracy: Tensor

    def __init__(self, backbone: Any, latent_scale: float, start_of_decode: int):
        super().__init__()
        self.backbone = backbone
        self.latent_scale = nn.Parameter(torch.tensor(latent_scale))
        self.start_of_decode = start_of_decode
        # Mean square of each latent dimension: what the calibrated NF4 table is made of.
        self.register_buffer("mean_square", torch.ones(backbone.config.hidden_size))
        # High-water mark of the mean accuracy: corrupted inputs lower it, and must not switch themselves off.
        self.register_buffer("accuracy", torch.zeros(()))
        self._hidden: Callable[..., Tensor] = self._run
        self._text_key_values: Callable[..., KeyValues] = self._fill
        self._token_loss: Callable[..., tuple[Tensor, Tensor]] = token_loss

    def _run(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, before: KeyValues | None = None
    ) -> Tensor:
        """Final-normed hidden states [B, S, D], behind keys and values if there are any."""
        return self._forward(embeddings, mask, positions, self._cache(before or []))

    def _fill(self, embeddings: Tensor, mask: Tensor, positions: Tensor) -> KeyValues:
        """Keys and values alone: compiled, the rest of the last layer is not computed."""
        cache = self._cache([])
        self._forward(embeddings, mask, positions, cache)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _cache(self, held: KeyValues) -> DynamicCache:
        cache = DynamicCache(config=self.backbone.config)
        for i, (keys, values) in enumerate(held):
            cache.update(keys, values, i)
        return cache

    def _forward(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        # A dict of ready masks passes through transformers unchanged; this kind of attention adds them.
        added = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        out: Tensor = self.backbone.model(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": added},
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return out

    def compile_forward(self) -> None:
        """Compile all but the single steps; every frame batch has the same shape."""
        self._hidden = torch.compile(self._run, dynamic=False)
        self._text_key_values = torch.compile(self._fill, dynamic=False)
        self._token_loss = torch.compile(token_loss, dynamic=False)

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings of token ids, [..., D]."""
        out: Tensor = self.backbone.model.embed_tokens(tokens)
        return out

    def step_inputs(self, batch: FrameBatch, latents: Tensor) -> Tensor:
        """Input embeddings of the L encoder steps: [SoD] where a text starts, else the latent before, scaled."""
        sod = self.embed(torch.tensor(self.start_of_decode, device=latents.device))
        fed = latents.detach().roll(1, 1) * self.latent_scale
        return torch.where(batch.starts[..., None], sod, fed)

    @torch.no_grad()
    def incremental_latents(self, batch: FrameBatch, text: KeyValues) -> Tensor:
        """Latent values [B, L, D] by L single steps over the text's keys and values."""
        slots = batch.tokens.shape[1]
        cache = self._cache(text)
        sod = self.embed(torch.tensor(self.start_of_decode, device=batch.tokens.device))
        latents: list[Tensor] = []
        for j in range(batch.starts.shape[1]):
            fed = latents[-1] * self.latent_scale if latents else sod.expand(len(batch.tokens), 1, -1)
            fed = torch.where(batch.starts[:, j, None, None], sod, fed)
            begin, end = slots + j, slots + j + 1
            mask, positions = batch.encoder_mask[:, :, begin:end, :end], batch.encoder_positions[:, begin:end]
            latents.append(self._forward(fed, mask, positions, cache).float())
        return torch.cat(latents, 1)

    def latents(self, batch: FrameBatch) -> Tensor:
        """Latents [B, L, D] with gradient, equal to the incremental ones."""
        slots = batch.tokens.shape[1]
        mask, positions = batch.encoder_mask, batch.encoder_positions
        text = self._text_key_values(
            self.embed(batch.tokens), mask[:, :, :slots, :slots], positions[:, :slots]
        )
        fed = self.step_inputs(batch, self.incremental_latents(batch, text))
        return self._hidden(fed, mask[:, :, slots:], positions[:, slots:], text).float()

    def states(self, batch: FrameBatch, latents: Tensor, inputs: Tensor) -> Tensor:
        """Decoder states [B, T, D] for ``latents`` and the (perhaps corrupted) ``inputs`` [B, T]."""
        embeddings = torch.cat([latents * self.latent_scale, self.embed(inputs)], 1)
        return self._hidden(embeddings, batch.decoder_mask, batch.decoder_positions)[:, latents.shape[1] :]

    def score(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of ``tokens`` [B, T] after ``states``, and the share of them predicted right."""
        return self._token_loss(states, self.backbone.lm_head.weight, tokens)

    def disturb(
        self,
        latents: Tensor,
        noise: float,
        levels: dict[int, float],
        generator: torch.Generator,
        dimensions: dict[int, int] | None = None,
    ) -> Tensor:
        """Noise on every frame's latents, quantisation (straight-through) on a share of them.

        ``levels`` gives the share of frames for each number of levels, ``dimensions`` how many of a latent's
        dimensions are kept with that number, where not all are.
        """
        with torch.no_grad():
            self.mean_square.lerp_(latents.detach().square().mean((0, 1)), 0.01)
            frames = len(latents)
            size = torch.rand(frames, 1, 1, generator=generator) * noise
            rms = latents.detach().square().mean((1, 2), keepdim=True).sqrt()
            moved = latents + torch.randn(latents.shape, generator=generator) * size * rms
            place = torch.rand(frames, 1, 1, generator=generator)
            below = 0.0
            for n, share in levels.items():
                chosen = (place >= below) & (place < below + share)
                below += share
                restored = round_trip(moved, self.mean_square.sqrt(), n)
                kept = (dimensions or {}).get(n, restored.shape[-1])
                restored = torch.cat([restored[..., :kept], torch.zeros_like(restored[..., kept:])], -1)
                moved = torch.where(chosen, restored, moved)
        return latents + (moved - latents).detach()


def reconstruction_loss(
    model: FrameCodec,
    batch: FrameBatch,
    *,
    corruption: float,
    noise: float,
    levels: dict[int, float],
    generator: torch.Generator,
    dimensions: dict[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the text given its disturbed latents, and the share of tokens predicted right.

    Each frame draws its own corruption rate, uniform in 0 … ``corruption``: without it the model trusts the
    prefix more than the latents (teacher-forced .947 but free-running .483 in the study).
    """
    latents = model.disturb(model.latents(batch), noise, levels, generator, dimensions)
    frames, slots = batch.tokens.shape
    vocabulary = model.backbone.config.vocab_size
    rate = torch.rand(frames, 1, generator=generator) * corruption
    replaced = (torch.rand(frames, slots, generator=generator) < rate) & (
        batch.inputs != model.start_of_decode
    )
    random_tokens = torch.randint(vocabulary, (frames, slots), generator=generator)
    states = model.states(batch, latents, torch.where(replaced, random_tokens, batch.inputs))
    return model.score(states, batch.tokens)
