"""Latents to tokens: greedy decoding, and the one parallel pass that tells what greedy decoding will do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone, Cache
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.encoder import pad_ids

# Rows are taken out of a batch once this share or less is still running: each time costs a copy of the cache.
_SHRINK = 0.75


def prefix(
    backbone: Backbone, config: CodecConfig, values: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, mask and positions of [latents, SoD]; the SoD's position comes last."""
    batch, longest, _ = values.shape
    sod = backbone.embed(torch.full((batch, 1), config.start_of_decode, device=backbone.device))
    scaled = (values.to(backbone.device) * config.latent_scale).to(sod.dtype)
    arange = torch.arange(longest, device=backbone.device)[None]
    lengths = lengths.to(backbone.device)[:, None]
    mask = torch.cat([(arange < lengths).long(), torch.ones_like(lengths)], 1)
    if config.positions == "aligned" and config.tokens_per_latent:
        positions = torch.cat(
            [(arange * config.tokens_per_latent).expand(batch, -1), torch.zeros_like(lengths)], 1
        )
    else:
        positions = torch.cat([arange.expand(batch, -1), lengths], 1)
    return torch.cat([scaled, sod], 1), mask, positions


@torch.inference_mode()
def greedy_batch(
    backbone: Backbone,
    config: CodecConfig,
    values: Tensor,
    lengths: Tensor,
    *,
    steps: Sequence[int],
    repairs: Sequence[Mapping[int, int]] | None = None,
    stop_at_end: bool = True,
) -> list[list[int]]:
    """Greedy decoding of latents [B, L, D] with a key/value cache.

    Args:
        backbone: the model in its decoder role.
        config: the codec's configuration.
        values: float [B, L, D].
        lengths: int64 [B].
        steps: the most tokens each row may take.
        repairs: per row, position → token id that is taken in place of the argmax.
        stop_at_end: end a row at an end token (not part of the result). Off where the number of
            tokens is known, since a text may be cut anywhere.

    Returns:
        Token ids of each row.
    """
    embeddings, mask, positions = prefix(backbone, config, values, lengths)
    cache = backbone.new_cache()
    last = backbone.hidden(embeddings, mask, positions, cache)[:, -1]
    ends = config.ends if stop_at_end else frozenset()
    return continue_greedily(
        backbone, last, mask, positions[:, -1:], cache, steps=steps, ends=ends, repairs=repairs
    )


def continue_greedily(
    backbone: Backbone,
    last: Tensor,
    mask: Tensor,
    position: Tensor,
    cache: Cache,
    *,
    steps: Sequence[int],
    ends: Collection[int],
    repairs: Sequence[Mapping[int, int]] | None = None,
) -> list[list[int]]:
    """Argmax tokens after a prompt, each fed back.

    Args:
        backbone: the model in its decoder role.
        last: [B, D], the hidden state at each prompt's last position.
        mask: int64 [B, S] of the prompt.
        position: int64 [B, 1] of that last position.
        cache: holds the prompt.
        steps: the most tokens each row may take.
        ends: token ids that end a row and are not part of it; none: each row takes all its steps.
        repairs: per row, step → token id that is taken in place of the argmax.

    Returns:
        Token ids of each row.
    """
    forced = torch.full((len(last), max(steps)), -1, device=backbone.device)
    for i, row in enumerate(repairs or ()):
        for step, token in row.items():
            forced[i, step] = token
    stops = torch.tensor(sorted(ends), dtype=torch.int64, device=backbone.device)
    left = torch.tensor(steps, device=backbone.device)
    rows = torch.arange(len(last), device=backbone.device)  # those still decoded, by number
    tokens: list[list[int]] = [[] for _ in steps]
    for t in range(max(steps)):
        best = backbone.logits(last).argmax(-1)
        best = torch.where(forced[rows, t] >= 0, forced[rows, t], best)
        for i, token in zip(rows.tolist(), best.tolist(), strict=True):
            tokens[i].append(token)
        left = torch.where(torch.isin(best, stops), 0, left - 1)
        running = (left > 0).nonzero()[:, 0]
        if not len(running):
            break
        if len(running) <= _SHRINK * len(rows):
            # Texts differ in length: what is finished is not computed to the end of the longest.
            rows, left, best = rows[running], left[running], best[running]
            mask, position = mask[running], position[running]
            cache.batch_select_indices(running)
        position = position + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        last = backbone.hidden(backbone.embed_generated(best[:, None]), mask, position, cache)[:, -1]
    cut = [row[:n] for row, n in zip(tokens, steps, strict=True)]
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in cut]


@torch.inference_mode()
def teacher_forced_batch(
    backbone: Backbone, config: CodecConfig, values: Tensor, lengths: Tensor, rows: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[list[float]]]:
    """What the decoder predicts at each token of ``rows``, given the latents and the true prefix.

    Returns:
        Per row, the argmax token ids, and the true token's lead: its logit minus the best other one
        (negative where the argmax is wrong).
    """
    embeddings, mask, positions = prefix(backbone, config, values, lengths)
    ids, ids_mask = pad_ids(rows, config.end_of_text, backbone.device)
    after = positions[:, -1:] + 1 + torch.arange(ids.shape[1] - 1, device=backbone.device)[None]
    hidden = backbone.hidden(
        torch.cat([embeddings, backbone.embed_generated(ids[:, :-1])], 1),
        torch.cat([mask, ids_mask[:, :-1]], 1),
        torch.cat([positions, after], 1),
    )[:, values.shape[1] :]
    predicted, leads = [], []
    # Row by row: [B, T, V] logits of a large vocabulary would take gigabytes.
    for states, row in zip(hidden, rows, strict=True):
        true = torch.as_tensor(row, device=backbone.device)[:, None]
        logits = backbone.logits(states[: len(row)])
        best = logits.argmax(-1)
        lead = logits.gather(-1, true)[:, 0] - logits.scatter(-1, true, float("-inf")).amax(-1)
        predicted.append(best.tolist())
        leads.append(lead.tolist())
    return predicted, leads
