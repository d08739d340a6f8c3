"""Latents to tokens: greedy decoding, and the passes, through its cache or without, that tell what it will do."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.cache import Cache
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.encoder import pad_ids
from nextmem_agents.codec.leads import choices, leads, leads_of
from nextmem_agents.codec.repair import forced_tokens
from nextmem_agents.errors import InvalidArgument

# Rows are taken out of a batch once this share or less is still running: each time costs a copy of the cache.
_SHRINK = 0.75
BLOCK = 16
"""Known tokens that go through the decoder's cache at once.

One text of 64 tokens takes a sixth of the time of single steps, 48 of them 1.6 times less than by steps and less than
in one parallel pass, since no text is padded to the longest by more than this (`mini`, blocks of 1 to 64).
"""


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
    if backbone.slots is not None and not stop_at_end:
        return backbone.slots.decode(
            partial(_prompts, backbone, embeddings, mask, positions), mask.shape[1], steps, repairs
        )
    cache = backbone.new_cache(embeddings.shape[1] + max(steps))
    last = backbone.hidden(embeddings, mask, positions, cache, last=True)[:, 0]
    ends = config.ends if stop_at_end else frozenset()
    return continue_greedily(
        backbone, last, positions[:, -1:], cache, steps=steps, ends=ends, repairs=repairs
    )


def check_steps(max_new_tokens: int) -> None:
    """Raise InvalidArgument unless it is a number of tokens."""
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InvalidArgument(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens!r}")


def _prompts(
    backbone: Backbone, embeddings: Tensor, mask: Tensor, positions: Tensor, rows: list[int]
) -> tuple[Tensor, Tensor, Cache]:
    """Read some rows' prompts: the last hidden states [n, D] and positions [n, 1], and the cache they filled."""
    cache = backbone.new_cache()
    last = backbone.hidden(embeddings[rows], mask[rows], positions[rows], cache, last=True)[:, 0]
    return last, positions[rows, -1:], cache


def continue_greedily(
    backbone: Backbone,
    last: Tensor,
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
        position: int64 [B, 1] of that last position.
        cache: holds the prompt.
        steps: the most tokens each row may take.
        ends: token ids that end a row and are not part of it; none: each row takes all its steps.
        repairs: per row, step → token id that is taken in place of the argmax.

    Returns:
        Token ids of each row.
    """
    # The longest first: rows that have taken all their steps are then the last ones, and leave without a copy.
    rows = sorted(range(len(steps)), key=lambda i: -steps[i])
    limits = [steps[i] for i in rows]
    of_rows = [repairs[i] if repairs else {} for i in rows]
    forced, repaired_at = forced_tokens(of_rows, limits[0], backbone.device), set().union(*of_rows)
    if rows != sorted(rows):
        order = torch.tensor(rows, device=backbone.device)
        last, position = last[order], position[order]
        cache.select(order)
    stops = torch.tensor(sorted(ends), dtype=torch.int64, device=backbone.device)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=backbone.device)
    written: list[tuple[list[int], Tensor]] = []
    for t in range(limits[0]):
        best = choices(backbone, last)
        if t in repaired_at:
            best = torch.where(forced[:, t] >= 0, forced[:, t], best)
        written.append((rows, best))
        n = sum(limit > t + 1 for limit in limits)
        if ends:
            ended |= torch.isin(best, stops)
            running = (~ended[:n]).nonzero()[:, 0]
            if len(running) <= _SHRINK * len(rows):
                # Texts differ in length: what is finished is not computed to the end of the longest.
                cache.select(running)
                kept = running.tolist()
                rows, limits = [rows[i] for i in kept], [limits[i] for i in kept]
                best, position, ended, forced = (
                    best[running],
                    position[running],
                    ended[running],
                    forced[running],
                )
        elif n < len(rows) and (backbone.fused or n <= _SHRINK * len(rows)):
            cache.keep_first(n)
            rows, limits, best, position, forced = rows[:n], limits[:n], best[:n], position[:n], forced[:n]
        if not n or not rows:
            break
        position = position + 1
        last = backbone.step(backbone.embed_generated(best[:, None]), position, cache)[:, 0]
    tokens: list[list[int]] = [[] for _ in steps]
    for numbers, column in written:
        for i, token in zip(numbers, column.tolist(), strict=True):
            tokens[i].append(token)
    cut = [row[:n] for row, n in zip(tokens, steps, strict=True)]
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row))] for row in cut]


@torch.inference_mode()
def cached_leads(
    backbone: Backbone,
    config: CodecConfig,
    values: Tensor,
    lengths: Tensor,
    rows: Sequence[Sequence[int]],
    enough: float = math.inf,
) -> list[list[float]]:
    """The lead of each token of ``rows`` where the decoder reads them through its cache.

    The cache, the weights and the positions are those of :func:`greedy_batch`: where every lead is positive, or its
    token a repair, greedy decoding gives ``rows``. It takes single steps, and so does this in any type but float32.
    There, ``BLOCK`` tokens are read at a time: leads differ from those of single steps by less than a fiftieth of the
    margin that repairs keep (``MARGIN``), as those of batch sizes do (``benchmarks/margins.py``).

    Args:
        backbone: the model in its decoder role.
        config: the codec's configuration.
        values: float [B, L, D].
        lengths: int64 [B].
        rows: token ids of each row, none empty.
        enough: see :func:`~nextmem_agents.codec.leads.leads`.

    Returns:
        Per row, the true token's lead at each position: its logit minus the best other one.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    embeddings, mask, positions = prefix(backbone, config, values[order], lengths[order])
    ids, _ = pad_ids([rows[i] for i in order], config.end_of_text, backbone.device)
    cache = backbone.new_cache(embeddings.shape[1] + ids.shape[1])
    states = [backbone.hidden(embeddings, mask, positions, cache, last=True)]
    n, block = len(order), BLOCK if backbone.dtype == torch.float32 else 1
    for begin in range(0, ids.shape[1] - 1, block):
        if (left := sum(len(row) > begin + 1 for row in rows)) < n:
            n = left
            cache.keep_first(n)
        fed = ids[:n, begin : min(begin + block, ids.shape[1] - 1)]
        places = positions[:n, -1:] + 1 + begin + torch.arange(fed.shape[1], device=fed.device)
        states.append(backbone.step(backbone.embed_generated(fed), places, cache))
    found: list[list[float]] = [[] for _ in rows]
    for place, i in enumerate(order):
        of_row = torch.cat([state[place] for state in states if len(state) > place])[: len(rows[i])]
        found[i] = leads(backbone, of_row, ids[place, : len(rows[i])], enough).tolist()
    return found


def known_leads(
    backbone: Backbone,
    config: CodecConfig,
    values: Tensor,
    lengths: Tensor,
    rows: Sequence[Sequence[int]],
    enough: float,
) -> list[list[float]]:
    """The lead of each token of ``rows``: where that costs little by :func:`cached_leads`, which prove what greedy
    decoding gives; elsewhere by one parallel pass, which predicts it.
    """
    if backbone.fused:
        return cached_leads(backbone, config, values, lengths, rows, enough)
    return teacher_forced_batch(backbone, config, values, lengths, rows)[1]


def forced_hidden(
    backbone: Backbone, config: CodecConfig, values: Tensor, lengths: Tensor, rows: Sequence[Sequence[int]]
) -> Tensor:
    """Hidden states [B, T, D] from which the decoder predicts each token of ``rows``, given the true prefix.

    Carries the gradient of the latents ``values``, where gradients are enabled.
    """
    embeddings, mask, positions = prefix(backbone, config, values, lengths)
    ids, ids_mask = pad_ids(rows, config.end_of_text, backbone.device)
    after = positions[:, -1:] + 1 + torch.arange(ids.shape[1] - 1, device=backbone.device)[None]
    return backbone.hidden(
        torch.cat([embeddings, backbone.embed_generated(ids[:, :-1])], 1),
        torch.cat([mask, ids_mask[:, :-1]], 1),
        torch.cat([positions, after], 1),
    )[:, values.shape[1] :]


@torch.inference_mode()
def teacher_forced_batch(
    backbone: Backbone, config: CodecConfig, values: Tensor, lengths: Tensor, rows: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[list[float]]]:
    """What the decoder predicts at each token of ``rows``, given the latents and the true prefix.

    Returns:
        Per row, the argmax token ids, and the true token's lead: its logit minus the best other one
        (negative where the argmax is wrong).
    """
    hidden = forced_hidden(backbone, config, values, lengths, rows)
    predicted, found = [], []
    # Row by row: [B, T, V] logits of a large vocabulary would take gigabytes.
    for states, row in zip(hidden, rows, strict=True):
        logits = backbone.logits(states[: len(row)])
        predicted.append(logits.argmax(-1).tolist())
        found.append(leads_of(logits, torch.as_tensor(row, device=backbone.device)).tolist())
    return predicted, found
