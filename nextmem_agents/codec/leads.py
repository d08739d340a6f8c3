"""Leads: by how much the decoder prefers the true token, a token's logit minus the best other one.

Where one is small a repair is kept, and by how much the others are larger does not matter. On a processor with a unit
for bfloat16 (AMX) it is enough to know that they are: a product of rounded hidden states says so for all but one token
in a hundred, in a fifth of the time, and only these are multiplied in float32.
"""

from __future__ import annotations

import math

from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.largest import largest


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
    best = logits.scatter_(-1, true[:, None], float("-inf")).amax(-1).float()
    found = backbone.logits_of(hidden, true) - best - error
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
    return own - logits.scatter_(-1, true[:, None], float("-inf")).amax(-1)


def rivals(backbone: Backbone, hidden: Tensor, true: Tensor) -> Tensor:
    """The best other token, int64 [T], in place of each true one; see :func:`leads`."""
    return largest(backbone.logits(hidden).scatter_(-1, true[:, None], float("-inf")))[1]
