"""Latents moved until the decoder gives their text back: gradient steps on the latents of one text, weights frozen.

The encoder writes latents in one pass, and at a high density or few bits some tokens are lost. The decoder can read
far more from latents than the encoder puts there: optimised for one text, a single vector holds hundreds of tokens
(Kuratov et al., "Cramming 1568 Tokens into a Single Vector and Back Again", arXiv 2502.13063). Here the encoder's
latents are where the steps begin, and quantisation is in the loop (straight-through), so that it is the stored latents
that decode. What no step reaches is left to the repair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import forced_hidden
from nextmem_agents.codec.leads import leads, rivals
from nextmem_agents.codec.repair import MARGIN

WANTED = 1.0
"""The lead, in logits, up to which a true token is pushed."""
ENOUGH = 2 * MARGIN
"""The lead of its weakest token at which a text is done: no repair is kept above half of it."""
STEP = 0.03
"""Adam's step size, in units of each dimension's RMS; it falls to a tenth of it.

On four to six of the SQuAD texts that are reported, at 1, 2 and 4 bits: all from .02 or .03 to .1 gave nearly the same
texts back, and .03 about the soonest.
"""
_TOKENS = 1024  # of texts refined together


@dataclass(frozen=True, eq=False)
class Refinement:
    """What latents are moved for, and how far.

    Attributes:
        backbone: the model in its decoder role.
        config: the codec's configuration; ``refinement_steps`` steps are taken at the most.
        stored: the latents that come back from a store, of latents [b, L, D] and lengths [b].
        unit: float32 [D], the RMS of each dimension, 0 where it is not kept; None: each row's own RMS.
    """

    backbone: Backbone
    config: CodecConfig
    stored: Callable[[Tensor, Tensor], Tensor]
    unit: Tensor | None

    def of(self, values: Tensor, lengths: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        """Latents of which ``stored`` decodes to ``rows``, or to as many of their tokens as was reached.

        Args:
            values: float32 [B, L, D], the encoder's.
            lengths: int64 [B].
            rows: token ids of each row, none empty.

        Returns:
            Float32 [B, L, D]: of each row the latents that lose the fewest tokens, the encoder's own if none is better.
        """
        size = max(1, _TOKENS // max(map(len, rows)))
        parts = [slice(begin, begin + size) for begin in range(0, len(rows), size)]
        return torch.cat([self._of_batch(values[part], lengths[part], rows[part]) for part in parts])

    def _of_batch(self, values: Tensor, lengths: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            first, lengths = values.clone(), lengths.clone()  # those of inference carry no gradient
            unit = self.unit
            if unit is None:
                of_rows = first.square().sum((1, 2)) / (lengths * first.shape[-1])
                unit = of_rows.sqrt()[:, None, None]
            unit = unit.clone().expand_as(first)
            moved = torch.zeros_like(first, requires_grad=True)
            optimizer = torch.optim.Adam([moved], lr=STEP, betas=(0.9, 0.95))
            schedule = torch.optim.lr_scheduler.LinearLR(
                optimizer, 1.0, 0.1, max(1, self.config.refinement_steps)
            )
            best, missing = first.clone(), [len(row) + 1 for row in rows]
            active = list(range(len(rows)))
            for step in range(self.config.refinement_steps + 1):
                # What is stored is as wide as the longest row among those given to it.
                width = int(lengths[active].max())
                now = first[active, :width] + moved[active, :width] * unit[active, :width]
                kept = self.stored(now.detach(), lengths[active]).clone()
                chosen = [rows[i] for i in active]
                hidden = forced_hidden(
                    self.backbone, self.config, now + (kept - now).detach(), lengths[active], chosen
                )
                losses = []
                going = []
                for place, i in enumerate(active):
                    states = hidden[place, : len(rows[i])]
                    true = torch.tensor(rows[i], device=states.device)
                    with torch.no_grad():
                        of_true = leads(self.backbone, states.detach(), true, enough=WANTED)
                    lost = int((of_true < MARGIN).sum())
                    if lost < missing[i] or (lost == missing[i] == 0):
                        missing[i] = lost
                        best[i, :width] = now[place].detach()
                    if float(of_true.min()) < ENOUGH:
                        going.append(i)
                        weak = of_true < WANTED
                        with torch.no_grad():
                            others = rivals(self.backbone, states[weak], true[weak])
                        losses.append(
                            self.backbone.logits_of(states[weak], others).sum()
                            - self.backbone.logits_of(states[weak], true[weak]).sum()
                        )
                if not going or step == self.config.refinement_steps:
                    break
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                active = going
            return best
