"""The loss of naming tokens, over the whole vocabulary.

Compiled, its logits are read once instead of at every step of a softmax: where a model is small, it is most of a step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def token_loss(states: Tensor, directions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of ``tokens`` [..., T] after ``states`` [..., T, D], and the share of them predicted right.

    ``directions`` [V, D] has a row for each token; the logits are float32.

    Examples:
        >>> import torch
        >>> token_loss(4 * torch.eye(2)[None], torch.eye(2), torch.tensor([[0, 0]]))
        (tensor(2.0181), tensor(0.5000))
    """
    logits = F.linear(states, directions).flatten(0, -2).float()
    loss = F.cross_entropy(logits, tokens.flatten())
    return loss, (logits.detach().argmax(-1) == tokens.flatten()).float().mean()
