"""The loss of both LoRA stages: a text reconstructed from a prefix whose leading blocks are latents.

    encoder   x_1 … x_n [SoD] z_1 z_2 …           z_j: final-normed hidden state, fed back
    decoder   z_1 … z_k  x_(kb+1) … x_n  [SoD]  x_1 … x_n [end]
                                                ^^^^^^^^^^^^^^^ the loss

Stage 1 has k = 0: the text itself, repeated after [SoD]. Stage 2 has the leading k blocks of b tokens replaced by k
latents, one block more per progressive step, until only latents remain (NextMem, arXiv 2603.15634).

The latents are autoregressive, and what is fed back is detached. So one incremental pass without gradient computes
the values, and one parallel pass over all of them then gives the same values with their gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.encoder import pad_ids
from nextmem_agents.training.loop import Rows


@dataclass(frozen=True, eq=False)
class EncoderBatch:
    """What the encoder reads before its first latent, and where everything stands.

    Attributes:
        ids: int64 [B, T], text, padded on the right.
        start: int64 [B, 1], the token after which the first latent is read: [SoD].
        mask: int64 [B, T], 1 where ``ids`` counts.
        text_positions, step_positions: int64 [B, T] and [B, K]; the first step is ``start``.
    """

    ids: Tensor
    start: Tensor
    mask: Tensor
    text_positions: Tensor
    step_positions: Tensor


class Substitution(nn.Module):
    """Reconstruction of texts by a decoder that reads latents of an encoder in place of text.

    Args:
        encoder: a ``Qwen3ForCausalLM`` whose adapter learns; not used where no block is ever replaced.
        decoder: another view of the same weights; the same object in stage 1.
        config: the codec's; its ``latent_scale`` is what latents are fed with.
        block_tokens: text tokens that one latent replaces.
        blocks: how many leading blocks are replaced at a step.
        addition: [D], what prompts add to the row of [SoD]; learns if it is a parameter that requires gradient.
        corruption: up to this share of the repeated text's input tokens is replaced at random (of each text its own
            share), so that reading the latents pays more than trusting the prefix.
        latent_noise: noise of up to this share of the latents' RMS, as quantisation will add.
        start_of_decode: without it no [SoD] stands between what is read and what is written (for ablations:
            a codec has one).
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        config: CodecConfig,
        *,
        block_tokens: int,
        blocks: Callable[[int], int],
        addition: Tensor,
        corruption: float = 0.0,
        latent_noise: float = 0.0,
        start_of_decode: bool = True,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.config, self.block_tokens, self.blocks = config, block_tokens, blocks
        self.corruption, self.latent_noise = corruption, latent_noise
        self.with_start = start_of_decode
        if isinstance(addition, nn.Parameter):
            self.addition: Tensor = addition
        else:
            self.register_buffer("addition", addition, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self.decoder.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    def forward(self, rows: Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of the texts (int arrays of token ids, none empty) and their end, in nats."""
        blocks = self.blocks(step)
        texts = [row.tolist() for row in rows]
        latents = self.disturb(self.latents(texts, blocks)) if blocks else None
        ids, mask = pad_ids([[*text, self.config.end_of_text] for text in texts], -100, self.device)
        logits = self.logits(texts, latents, blocks, self.corrupt(ids[:, :-1].clamp(min=0)))
        targets = ids.masked_fill(mask == 0, -100)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)
        right = ((logits.argmax(-1) == targets) & (mask == 1)).sum() / mask.sum()
        figures = {"accuracy": right, "blocks": torch.tensor(float(blocks)), "tokens": mask.sum().float()}
        return loss, figures

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of text."""
        return self.decoder.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def start_embedding(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of [SoD], or of the token that stands in its place."""
        rows = self.embed(ids)
        return rows + self.addition.to(rows) if self.with_start else rows

    # Encoder

    def encoder_batch(self, texts: Sequence[Sequence[int]], blocks: int) -> EncoderBatch:
        """Lay out texts for ``blocks`` latents each."""
        ratio = self.config.tokens_per_latent if self.config.positions == "aligned" else None
        if ratio is not None:
            texts = [[*text, *[self.config.end_of_text] * (-len(text) % ratio)] for text in texts]
        if self.with_start:
            last = [self.config.start_of_decode] * len(texts)
        else:
            last = [text[-1] for text in texts]
            # A pad token keeps a text of one token from being empty; it lies behind the mask's end.
            texts = [text[:-1] for text in texts]
        ids, mask = pad_ids(
            [text or [self.config.end_of_text] for text in texts], self.config.end_of_text, self.device
        )
        for i, text in enumerate(texts):
            if not text:
                mask[i] = 0
        n = mask.sum(1, keepdim=True)
        arange = torch.arange(max(ids.shape[1], blocks), device=self.device)[None]
        if ratio is not None:
            text_positions = (arange[:, : ids.shape[1]] + 1).expand_as(ids)
            step_positions = (ratio * (arange[:, :blocks] + 1)).expand(len(ids), -1)
        else:
            text_positions = arange[:, : ids.shape[1]].expand_as(ids)
            step_positions = n + arange[:, :blocks]
        start = torch.tensor(last, device=self.device)[:, None]
        return EncoderBatch(ids, start, mask, text_positions, step_positions)

    @torch.no_grad()
    def incremental_latents(self, batch: EncoderBatch) -> Tensor:
        """Latent values [B, K, D] by one prefill and K - 1 single steps with a key/value cache."""
        cache = DynamicCache(config=self.encoder.config)
        fed = torch.cat([self.embed(batch.ids), self.start_embedding(batch.start)], 1)
        positions = torch.cat([batch.text_positions, batch.step_positions[:, :1]], 1)
        mask = batch.mask
        latents: list[Tensor] = []
        # Gradient checkpointing, which only training mode has, refuses a cache.
        with _evaluating(self.encoder):
            for j in range(batch.step_positions.shape[1]):
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                latents.append(_hidden(self.encoder, fed, mask, positions, cache)[:, -1:])
                fed = self.feed(latents[-1])
                positions = batch.step_positions[:, j + 1 : j + 2]
        return torch.cat(latents, 1)

    def latents(self, texts: Sequence[Sequence[int]], blocks: int) -> Tensor:
        """Latents [B, K, D] with gradient, K being the most that a text has within ``blocks``."""
        steps = max(self.counts(texts, blocks)[0])
        batch = self.encoder_batch(texts, steps)
        values = self.incremental_latents(batch)
        # Autocast keeps its copies of weights, and those of a pass without gradient would carry none in the next.
        torch.clear_autocast_cache()
        fed = [self.embed(batch.ids), self.start_embedding(batch.start), self.feed(values[:, :-1])]
        mask = torch.cat([batch.mask, batch.mask.new_ones(len(values), steps)], 1)
        positions = torch.cat([batch.text_positions, batch.step_positions], 1)
        return _hidden(self.encoder, torch.cat(fed, 1), mask, positions)[:, batch.ids.shape[1] :]

    def feed(self, latents: Tensor) -> Tensor:
        """Latents as input embeddings."""
        return (latents * self.config.latent_scale).to(self.embed_dtype)

    @property
    def embed_dtype(self) -> torch.dtype:
        """The dtype of input embeddings."""
        return self.decoder.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    def disturb(self, latents: Tensor) -> Tensor:
        """Latents with noise, of each text its own strength; the gradient passes through."""
        if not self.latent_noise:
            return latents
        size = torch.rand(len(latents), 1, 1, device=latents.device) * self.latent_noise
        rms = latents.detach().square().mean((1, 2), keepdim=True).sqrt()
        return latents + torch.randn_like(latents) * size * rms

    def corrupt(self, inputs: Tensor) -> Tensor:
        """Token ids [B, T] with random ones among them."""
        if not self.corruption:
            return inputs
        rate = torch.rand(len(inputs), 1, device=inputs.device) * self.corruption
        random = torch.randint_like(inputs, self.decoder.config.vocab_size)
        return torch.where(torch.rand(inputs.shape, device=inputs.device) < rate, random, inputs)

    # Decoder

    def counts(self, texts: Sequence[Sequence[int]], blocks: int) -> tuple[list[int], list[int]]:
        """Of each text, how many latents it has within ``blocks``, and how many tokens they replace."""
        latents, replaced = [], []
        for text in texts:
            most = self.config.latents_for(len(text))
            latents.append(min(blocks, most))
            replaced.append(len(text) if blocks >= most else min(len(text), blocks * self.block_tokens))
        return latents, replaced

    def prompt(
        self, texts: Sequence[Sequence[int]], latents: Tensor | None, blocks: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, mask and positions [B, S] of what the decoder reads: latents, what text remains, [SoD]."""
        counts, replaced = self.counts(texts, blocks)
        device, batch = self.device, len(texts)
        begin, end = min(replaced), max(len(text) for text in texts)
        padded, mask = pad_ids([[*text, 0] for text in texts], 0, device)
        n = torch.tensor([len(text) for text in texts], device=device)[:, None]
        place = torch.arange(padded.shape[1], device=device)[None]
        kept = (place >= torch.tensor(replaced, device=device)[:, None]) & (place < n)
        parts, masks, aligned = [], [], []
        if latents is not None:
            arange = torch.arange(latents.shape[1], device=device)[None]
            parts.append(self.feed(latents))
            masks.append(arange < torch.tensor(counts, device=device)[:, None])
            aligned.append((arange * (self.config.tokens_per_latent or 0)).expand(batch, -1))
        if begin < end:
            parts.append(self.embed(padded[:, begin:end]))
            masks.append(kept[:, begin:end])
            aligned.append((place[:, begin:end] + 1).expand(batch, -1))
        if self.with_start:
            start = torch.full((batch, 1), self.config.start_of_decode, device=device)
            parts.append(self.start_embedding(start))
            masks.append(torch.ones_like(start, dtype=torch.bool))
            aligned.append(torch.zeros_like(start))
        mask = torch.cat(masks, 1).long()
        positions = (
            torch.cat(aligned, 1) if self.config.positions == "aligned" else (mask.cumsum(1) - 1).clamp(min=0)
        )
        return torch.cat(parts, 1), mask, positions

    def hidden_after(
        self, texts: Sequence[Sequence[int]], latents: Tensor | None, blocks: int, inputs: Tensor
    ) -> Tensor:
        """Decoder states [B, T + 1, D]: at the end of the prompt, and at each of the repeated ``inputs`` [B, T]."""
        embeddings, mask, positions = self.prompt(texts, latents, blocks)
        after = torch.arange(inputs.shape[1], device=self.device)[None].expand(len(inputs), -1)
        # What is aligned starts anew at 1; what is consecutive goes on.
        first = 1 if self.config.positions == "aligned" else mask.sum(1, keepdim=True)
        states = _hidden(
            self.decoder,
            torch.cat([embeddings, self.embed(inputs)], 1),
            torch.cat([mask, torch.ones_like(inputs)], 1),
            torch.cat([positions, after + first], 1),
        )
        width = mask.shape[1]
        # Without [SoD] a row's prompt may end before the longest one's.
        last = (mask * torch.arange(1, width + 1, device=self.device)).argmax(1)
        at_end = states[torch.arange(len(states), device=self.device), last][:, None]
        return torch.cat([at_end, states[:, width:]], 1)

    def logits(
        self, texts: Sequence[Sequence[int]], latents: Tensor | None, blocks: int, inputs: Tensor
    ) -> Tensor:
        """Decoder logits [B, T + 1, V] for each repeated token and the end."""
        return self.decoder.get_output_embeddings()(  # type: ignore[no-any-return]
            self.hidden_after(texts, latents, blocks, inputs)
        )

    @torch.inference_mode()
    def repeat(self, texts: Sequence[Sequence[int]], blocks: int) -> list[list[int]]:
        """Greedy free-running reconstruction of texts, to their known lengths.

        By definition rather than fast (the whole prefix is computed anew for each token): a codec that was exported
        decodes with a cache.
        """
        latents = self.latents(texts, blocks) if blocks else None
        longest = max(len(text) for text in texts)
        written = torch.zeros((len(texts), 0), dtype=torch.int64, device=self.device)
        for _ in range(longest):
            states = self.hidden_after(texts, latents, blocks, written)[:, -1]
            following = self.decoder.get_output_embeddings()(states).argmax(-1)
            written = torch.cat([written, following[:, None]], 1)
        return [row[: len(text)] for row, text in zip(written.tolist(), texts, strict=True)]


def _hidden(model: Any, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Any = None) -> Tensor:
    """Final-normed hidden states [B, S, D]."""
    out: Tensor = model.model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return out


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def progressive_blocks(step: int, steps: int, blocks: int, last_share: float) -> int:
    """How many blocks are replaced at ``step`` of ``steps``: 1, 2, … in equal parts of the run, all of them during
    its last ``last_share``.

    Examples:
        >>> [progressive_blocks(step, 10, 4, 0.4) for step in range(10)]
        [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    """
    growing = steps * (1 - last_share)
    if blocks == 1 or step >= growing:
        return blocks
    return min(blocks - 1, 1 + int(step * (blocks - 1) / growing))
