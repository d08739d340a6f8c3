"""Tokens to latents: one prefill of text and [SoD], then a single step per latent (NextMem, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.latents import length_mask


def pad_ids(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids right-padded to int64 [B, T], and the mask of the real ones."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)


@torch.inference_mode()
def encode_batch(
    backbone: Backbone, config: CodecConfig, rows: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Latents of B chunks of token ids, none empty.

    Sequence: text, then [SoD]; the last position's final-normed hidden state is latent 1; times
    ``latent_scale`` it is the next input embedding, which gives latent 2; and so on. Shorter rows are padded
    between text and [SoD], behind the mask.

    Returns:
        Latents float32 [B, L, D], zero past each row's own L, and those lengths, int64 [B].
    """
    ratio = config.tokens_per_latent
    lengths = torch.tensor([config.latents_for(len(row)) for row in rows], device=backbone.device)
    if config.positions == "aligned" and ratio:
        rows = [[*row, *[config.end_of_text] * (-len(row) % ratio)] for row in rows]
    ids, mask = pad_ids(rows, config.end_of_text, backbone.device)
    n = mask.sum(1, keepdim=True)
    steps = int(lengths.max())
    arange = torch.arange(max(ids.shape[1], steps), device=backbone.device)[None]
    if config.positions == "aligned" and ratio:
        text_positions = (arange[:, : ids.shape[1]] + 1).expand_as(ids)
        step_positions = (ratio * (arange[:, :steps] + 1)).expand(len(ids), -1)
    else:
        text_positions = arange[:, : ids.shape[1]].expand_as(ids)
        step_positions = n + arange[:, :steps]

    sod = torch.full((len(ids), 1), config.start_of_decode, device=backbone.device)
    fed = torch.cat([backbone.embed(ids), backbone.embed(sod)], 1)
    positions = torch.cat([text_positions, step_positions[:, :1]], 1)
    cache = backbone.new_cache(fed.shape[1] + steps, rounds=True)
    mask = torch.cat([mask, mask.new_ones(len(ids), 1)], 1)
    latents = [backbone.hidden(fed, mask, positions, cache, last=True)]
    if backbone.slots is not None:
        latents = [backbone.slots.encode(config, latents[0], cache, step_positions)]
    else:
        for j in range(1, steps):
            fed = latents[-1] * config.latent_scale
            latents.append(backbone.step(fed, step_positions[:, j : j + 1], cache))
    values = torch.cat(latents, 1).float()
    return values * length_mask(lengths, steps)[..., None], lengths
