"""The few tokens that make greedy decoding give the original text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A lead below this is a near-tie, kept as a repair although the argmax is right: another batch size, thread
# count or cache path moves logits by up to 3e-4 in float32 on the codecs measured here.
MARGIN = 0.02


@dataclass(frozen=True)
class Repair:
    """What one teacher-forced pass over the true tokens found, through the cache or parallel.

    Attributes:
        tokens: (position, true token id) wherever the argmax is wrong or its lead is too small.
        n_wrong: how many of them the argmax gets wrong.
    """

    tokens: tuple[tuple[int, int], ...]
    n_wrong: int

    @classmethod
    def of(cls, true: Sequence[int], leads: Sequence[float], margin: float = MARGIN) -> Repair:
        """The repair of a chunk from the true token's lead at each position.

        Greedy decoding with these tokens put in follows the true tokens step by step: by induction the prefix
        is the true one, where the pass has shown the argmax to be right.

        Examples:
            >>> Repair.of([7, 8, 9], [3.0, -1.5, 0.001])
            Repair(tokens=((1, 8), (2, 9)), n_wrong=1)
        """
        kept = tuple(
            (i, token) for i, (token, lead) in enumerate(zip(true, leads, strict=True)) if lead < margin
        )
        return cls(kept, sum(lead < 0 for lead in leads))

    @property
    def n_bytes(self) -> int:
        """About what the repair costs in a payload: distance and token id, varint-coded."""
        return sum(2 + (token > 0x7F) + (token > 0x3FFF) for _, token in self.tokens)


def forced_tokens(repairs: Sequence[Mapping[int, int]], width: int, device: torch.device) -> Tensor:
    """Repairs of rows, step → token id, as int64 [B, width] with -1 where a step has none.

    Examples:
        >>> forced_tokens([{1: 8}, {}], 3, torch.device("cpu")).tolist()
        [[-1, 8, -1], [-1, -1, -1]]
    """
    forced = torch.full((len(repairs), width), -1)
    for i, row in enumerate(repairs):
        for step, token in row.items():
            forced[i, step] = token
    return forced.to(device)
