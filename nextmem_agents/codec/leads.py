"""Which token the decoder chooses, and its lead: by how much it prefers the true one, its logit minus the best other.

Where a lead is small a repair is kept, and by how much the others are larger does not matter; nor does it for what is
chosen. On a processor with a unit for bfloat16 (AMX) it is enough to know that they are: a product of rounded hidden
states says so for all but one token in a hundred, in a fifth of the time, and only these are multiplied in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.largest import COLUMNS, largest, largest_positive, largest_rounded

_ROUNDED = 12  # hidden states from which on their logits take less time in bfloat16


def choices(backbone: Backbone, hidden: Tensor) -> Tensor:
    """The token of the largest float32 logit, int64 [T].

    Args:
        backbone: the model in its decoder role.
        hidden: hidden states [T, D], without a gradient.
    """
    rough = backbone.rough_logits(hidden) if len(hidden) >= _ROUNDED else None
    if rough is None or rough[0].shape[-1] % COLUMNS:
        return largest(backbone.logits(hidden))[1]
    logits, error = rough
    chosen, of_columns, inside = largest_rounded(logits)
    least = (of_columns.amax(-1) - 2 * error)[:, None]
    near = (of_columns >= least).sum(-1) + (inside >= least).sum(-1)
    # What is given for a column without a positive value is no bound.
    if len(unsure := ((near > 2) | (least[:, 0] <= 0)).nonzero()[:, 0]):
        chosen[unsure] = largest(backbone.logits(hidden[unsure]))[1]
    return chosen


def leads(backbone: Backbone, hidden: Tensor, true: Tensor, enough: float = math.inf) -> Tensor:
    """The true token's logit minus the best other one, float32 [T].

    Args:
        backbone: the model in its decoder role.
        hidden: hidden states [T, D], without a gradient.
        true: token ids int64 [T].
        enough: leads of this and more need not be known; then any number is given that is as large as this, and no
            larger than the lead.
    """
    rough = backbone.rough_logits(hidden) if enough < math.inf else None
    if rough is None:
        return leads_of(backbone.logits(hidden), true)
    logits, error = rough
    best = largest_positive(_without(logits, true)).float()
    found = backbone.logits_of(hidden, true) - best - error
    found[best <= 0] = -math.inf
    if len(unsure := (found < enough).nonzero()[:, 0]):
        found[unsure] = leads_of(backbone.logits(hidden[unsure]), true[unsure])
    return found


def leads_of(logits: Tensor, true: Tensor) -> Tensor:
    """Leads [T] from logits.

    Args:
        logits: [T, V]; the true tokens' are overwritten with minus infinity.
        true: token ids int64 [T].
    """
    own = logits.gather(-1, true[:, None])[:, 0]
    # Which token it is would take five times as long.
    return own - _without(logits, true).amax(-1)


def rivals(backbone: Backbone, hidden: Tensor, true: Tensor) -> Tensor:
    """The best other token, int64 [T], in place of each true one; see :func:`leads`."""
    return largest(_without(backbone.logits(hidden), true))[1]


def _without(logits: Tensor, true: Tensor) -> Tensor:
    """Logits [T, V] with those of the true tokens overwritten with minus infinity, in place."""
    # ``scatter_`` takes fifty times as long.
    logits[torch.arange(len(true), device=logits.device), true] = -math.inf
    return logits
