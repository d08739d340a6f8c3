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
from nextmem_agents.codec.decoder import forced_hidden, known_leads
from nextmem_agents.codec.leads import rivals
from nextmem_agents.codec.repair import MARGIN
from nextmem_agents.quantization import QuantizedLatents

WANTED = 1.0
"""The lead, in logits, up to which a true token is pushed."""
ENOUGH = 2 * MARGIN
"""The lead of its weakest token at which a text is done: no repair is kept above half of it."""
MEAN, SQUARE = 0.9, 0.95
"""Adam's decay of the mean gradient, and of its mean square."""
STEP = 0.03
"""Adam's step size, in units of each dimension's RMS; it falls to a tenth of it.

On four to six of the SQuAD texts that are reported, at 1, 2 and 4 bits: all from .02 or .03 to .1 gave nearly the same
texts back, and .03 about the soonest.
"""
_TOKENS = 1024  # of texts refined together


@dataclass(frozen=True, eq=False)
class Attempt:
    """Latents of one text, and what the decoder makes of them once they are stored.

    Attributes:
        values: float32 [L, D].
        codes: what is stored of them.
        leads: of each token, of the decoder with the latents that the codes stand for; those of ``WANTED`` and more
            may be given too small, but not below it.
    """

    values: Tensor
    codes: QuantizedLatents
    leads: list[float]

    @property
    def lost(self) -> int:
        """Tokens that would need a repair."""
        return sum(lead < MARGIN for lead in self.leads)


@dataclass(frozen=True, eq=False)
class Refinement:
    """What latents are moved for, and how far.

    Attributes:
        backbone: the model in its decoder role.
        config: the codec's configuration; ``refinement_steps`` steps are taken at the most.
        quantize: latents [b, L, D] and lengths [b] to codes.
        dequantize: codes to the latents that they stand for, [b, L, D].
        unit: float32 [D], the RMS of each dimension, 0 where it is not kept; None: each row's own RMS.
    """

    backbone: Backbone
    config: CodecConfig
    quantize: Callable[[Tensor, Tensor], list[QuantizedLatents]]
    dequantize: Callable[[list[QuantizedLatents]], Tensor]
    unit: Tensor | None

    def attempts(self, values: Tensor, lengths: Tensor, rows: Sequence[Sequence[int]]) -> list[Attempt]:
        """Latents as they are.

        Args:
            values: float32 [B, L, D].
            lengths: int64 [B].
            rows: token ids of each row, none empty.
        """
        codes = self.quantize(values, lengths)
        stored = self.dequantize(codes)
        enough = WANTED if self.config.refinement_steps else MARGIN
        found = known_leads(self.backbone, self.config, stored, lengths, rows, enough)
        return [
            Attempt(row[:n], code, leads)
            for row, n, code, leads in zip(values, lengths.tolist(), codes, found, strict=True)
        ]

    def of(self, begun: Sequence[Attempt], rows: Sequence[Sequence[int]]) -> list[Attempt]:
        """Of each text the attempt that loses the fewest tokens: the one it began with, if none is better.

        Args:
            begun: where the steps begin.
            rows: token ids of each row, none empty.
        """
        size = max(1, _TOKENS // max(map(len, rows)))
        parts = [slice(begin, begin + size) for begin in range(0, len(rows), size)]
        return [found for part in parts for found in self._of_batch(begun[part], rows[part])]

    def _of_batch(self, begun: Sequence[Attempt], rows: Sequence[Sequence[int]]) -> list[Attempt]:
        best, latest = list(begun), list(begun)
        first = torch.nn.utils.rnn.pad_sequence([each.values for each in begun], batch_first=True)
        lengths = torch.tensor([len(each.values) for each in begun], device=first.device)
        unit = self.unit
        if unit is None:
            of_rows = first.square().sum((1, 2)) / (lengths * first.shape[-1])
            unit = of_rows.sqrt()[:, None, None]
        unit = unit.expand_as(first)
        moved, mean, square = (torch.zeros_like(first) for _ in range(3))
        active = list(range(len(rows)))
        for step in range(self.config.refinement_steps):
            going = [place for place, i in enumerate(active) if min(latest[i].leads) < ENOUGH]
            if not going:
                break
            active = [active[place] for place in going]
            # Codes are as wide as the longest row among those that are quantised together.
            width = int(lengths[active].max())
            first, unit, moved, mean, square = (
                each[going, :width] for each in (first, unit, moved, mean, square)
            )
            texts = [rows[i] for i in active]
            gradient = self._gradient([latest[i] for i in active], texts) * unit
            # Adam (Kingma & Ba, arXiv 1412.6980); torch's takes a second and 60 MB when it is first imported.
            mean = mean.lerp(gradient, 1 - MEAN)
            square = square.lerp(gradient.square(), 1 - SQUARE)
            size = STEP * (1 - 0.9 * step / self.config.refinement_steps) / (1 - MEAN ** (step + 1))
            moved = moved - size * mean / (square / (1 - SQUARE ** (step + 1))).sqrt().add(1e-8)
            attempts = self.attempts(first + moved * unit, lengths[active], texts)
            for i, attempt in zip(active, attempts, strict=True):
                latest[i] = attempt
                if attempt.lost < best[i].lost or attempt.lost == best[i].lost == 0:
                    best[i] = attempt
        return best

    def _gradient(self, latest: Sequence[Attempt], rows: Sequence[Sequence[int]]) -> Tensor:
        """Of how much other tokens lead over the true ones, at all that are weak, [b, L, D].

        Args:
            latest: what came of the latents.
            rows: token ids of each row.
        """
        weak = [[t for t, lead in enumerate(each.leads) if lead < WANTED] for each in latest]
        # What comes behind the last weak token moves nothing.
        begins = [row[: places[-1] + 1] for row, places in zip(rows, weak, strict=True)]
        true = torch.tensor(
            [row[t] for row, places in zip(rows, weak, strict=True) for t in places],
            device=latest[0].values.device,
        )
        with torch.inference_mode(False), torch.enable_grad():
            # Through the codes as if they were the latents (straight-through); those of inference carry no gradient.
            kept = self.dequantize([each.codes for each in latest]).clone().requires_grad_()
            lengths = torch.tensor([len(each.values) for each in latest], device=kept.device)
            hidden = forced_hidden(self.backbone, self.config, kept, lengths, begins)
            states = torch.cat([states[places] for states, places in zip(hidden, weak, strict=True)])
            others = rivals(self.backbone, states.detach(), true)
            lead = self.backbone.logits_of(states, others) - self.backbone.logits_of(states, true)
            return torch.autograd.grad(lead.sum(), kept)[0]
