"""Greedy decoding that begins with a draft of the text: several tokens a pass, and the same ones as step by step.

A pass over one token of one text reads every weight, and takes as long as one over several. So a draft is fed, of which
the tokens up to the first that the decoder would not have chosen are its own choice, and the one that it chooses there
is the next (speculative decoding; Leviathan et al., arXiv 2211.17192). No second model is needed for the draft: the
index head names the tokens that latents stand for. What the decoder predicts behind a wrong token is the draft of the
next pass (Jacobi decoding; Santilli et al., arXiv 2305.10427).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.cache import Cache, StaticCache
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import prefix
from nextmem_agents.codec.largest import nearly_largest
from nextmem_agents.codec.leads import choices
from nextmem_agents.codec.repair import forced_tokens

MOST = 8
"""Texts up to which drafts are worth it: more of them keep the processor busy with one token each.

On two cores (`mini-16`, 64 tokens a text) one text takes 12 to 16 ms in place of 60, five 40 to 50 in place of 80,
eight 70 in place of 90, and sixteen as long.
"""
_POSITIONS = 64  # of a pass
_WIDEST, _NARROWEST = 16, 4  # tokens of one text in a pass
_WIDE = 64  # the same of a text alone, whose draft was read once already
_SHRINK = 0.8  # finished rows leave once this share or less is still running


def can_draft(backbone: Backbone) -> bool:
    """Whether several tokens at once give what single steps give: fused, in float32 on a CPU."""
    return backbone.fused and backbone.dtype == torch.float32 and backbone.device.type == "cpu"


@torch.inference_mode()
def greedy_from_drafts(
    backbone: Backbone,
    config: CodecConfig,
    values: Tensor,
    lengths: Tensor,
    *,
    steps: Sequence[int],
    drafts: Tensor,
    repairs: Sequence[Mapping[int, int]],
) -> list[list[int]]:
    """What :func:`~nextmem_agents.codec.decoder.greedy_batch` gives for texts of known length, whatever the drafts.

    As in :func:`~nextmem_agents.codec.decoder.cached_leads`, logits differ from those of single steps by less than a
    fiftieth of the margin that repairs keep.

    Args:
        backbone: the model in its decoder role, fused.
        config: the codec's configuration.
        values: float [B, L, D].
        lengths: int64 [B].
        steps: how many tokens each row has.
        drafts: token ids int64 [B, T], of any width.
        repairs: per row, position → token id that is taken in place of the argmax.

    Returns:
        Token ids of each row.
    """
    prompt, mask, positions = prefix(backbone, config, values, lengths)
    # Of several texts it gains nothing: some are short, and most wrong tokens are passed by together.
    twice = backbone.rounds and len(steps) == 1
    width = min(max(steps), _WIDE if twice else max(_NARROWEST, min(_WIDEST, _POSITIONS // len(steps))))
    begin, size = prompt.shape[1] - 1, 1 + max(steps) + width
    cache = backbone.new_cache(begin + size)
    assert isinstance(cache, StaticCache)  # noqa: S101 - narrows the type
    drafts = F.pad(drafts[:, : max(steps)], (0, max(0, max(steps) - drafts.shape[1])))
    if twice:
        drafts = _read_once(backbone, prompt, mask, positions, drafts)
    forced = F.pad(forced_tokens(repairs, size - 1, backbone.device), (1, 0), value=-1)
    # What stands at each place, of which the first is the SoD's.
    line = F.pad(drafts, (1, width))
    line = torch.where(forced >= 0, forced, line)
    settled, ends = torch.ones(len(steps), dtype=torch.int64), 1 + torch.tensor(steps)
    rows, ahead = torch.arange(len(steps)), torch.arange(width)
    states = _states(backbone, prompt, mask, positions, line[:, 1:width], cache)
    while True:
        places = settled[rows, None] - 1 + ahead
        fed, repaired = line[rows[:, None], places], forced[rows[:, None], places + 1]
        chosen = torch.where(repaired >= 0, repaired, _choices(backbone, states))
        agreed = (fed[:, 1:] == chosen[:, :-1]).cumprod(1).sum(1)
        # What was predicted right behind the first wrong token is no better a draft than the former one.
        behind = ahead == agreed[:, None] + 1
        line[rows[:, None], places + 1] = torch.where(behind, line[rows[:, None], places + 1], chosen)
        settled[rows] = torch.minimum(settled[rows] + 1 + agreed, ends[rows])
        running = settled[rows] < ends[rows]
        if int(running.sum()) <= _SHRINK * len(rows):
            cache.select(running.nonzero()[:, 0])
            rows = rows[running]
        if not len(rows):
            break
        ahead = ahead[: int((ends[rows] - settled[rows]).max())]
        places = settled[rows, None] - 1 + ahead
        cache.place(begin + places)
        fed = backbone.embed_generated(line[rows[:, None], places])
        states = backbone.step(fed, positions[rows, -1:] + places, cache)
    return [row[1 : 1 + n] for row, n in zip(line.tolist(), steps, strict=True)]


def _read_once(backbone: Backbone, prompt: Tensor, mask: Tensor, positions: Tensor, drafts: Tensor) -> Tensor:
    """What the decoder predicts at each token of drafts [B, T], in bfloat16: a better draft, of most wrong tokens."""
    cache = backbone.new_cache(prompt.shape[1] + drafts.shape[1], rounds=True)
    states = _states(backbone, prompt, mask, positions, drafts[:, :-1], cache)
    rough = backbone.rough_logits(states.flatten(0, 1))
    return drafts if rough is None else nearly_largest(rough[0]).view(drafts.shape)


def _states(
    backbone: Backbone, prompt: Tensor, mask: Tensor, positions: Tensor, fed: Tensor, cache: Cache
) -> Tensor:
    """Hidden states of the SoD, with which a prompt ends, and of tokens [B, T] behind it, [B, 1 + T, D]."""
    after = positions[:, -1:] + 1 + torch.arange(fed.shape[1])
    return backbone.hidden(
        torch.cat([prompt, backbone.embed_generated(fed)], 1),
        torch.cat([mask, torch.ones_like(fed)], 1),
        torch.cat([positions, after], 1),
        cache,
    )[:, prompt.shape[1] - 1 :]


def _choices(backbone: Backbone, states: Tensor) -> Tensor:
    """The token that each hidden state [B, S, D] chooses, [B, S]."""
    return choices(backbone, states.flatten(0, 1)).view(states.shape[:2])
