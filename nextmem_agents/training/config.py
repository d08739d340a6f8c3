"""The settings of from-scratch codec training, saved beside every run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.quantization.latents import FEW_LEVELS, NF4_LEVELS

LEVELS = (*FEW_LEVELS, NF4_LEVELS)

MINI = Path(__file__).parent / "mini.json"
"""The settings that train ``mini``, and with it what the other shipped codecs began with."""


@dataclass(frozen=True)
class ScratchConfig:
    """Train a small codec from random weights: one model in both roles, no adapters.

    Every default is the setting that measured best in the study this project started from; the reasons
    stand beside them.
    """

    name: str = "mini"
    # The backbone: Qwen3 architecture, tied head.
    hidden_size: int = 256
    intermediate_size: int = 640
    layers: int = 4
    heads: int = 4
    head_dim: int = 64
    vocabulary: int = 8192
    rope_theta: float = 10_000.0
    # The code.
    frame_tokens: int = 128
    tokens_per_latent: int = 8  # of the exported codec
    levels: int = 16  # values a quantised number of the exported codec can take; 16: NF4
    refinement_steps: int = 0  # of the exported codec: the most steps its latents take before they are stored
    densities: dict[int, float] = field(
        default_factory=dict
    )  # tokens per latent → share of steps; empty: above
    latent_scale: float = 0.02  # start value of the one learned scalar; 1 was clearly worse
    start_from: str = (
        ""  # a shipped codec or a checkpoint folder whose weights and tokenizer training starts with
    )
    # Optimisation: Muon on matrices (.293 against .095 accuracy at the same step), AdamW on the rest.
    steps: int = 4000
    frames_per_step: int = 16
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    adamw_lr: float = 3e-3
    warmup_steps: int = 50
    decay_share: float = 0.65  # share of the run over which the rates fall linearly to zero
    gradient_clip: float = 1.0
    # What makes the latents carry the text, and makes them robust.
    corruption: float = 0.16  # up to this share of the decoder's input tokens replaced at random …
    corruption_after: float = 0.9  # … once teacher-forced accuracy has passed this
    latent_noise: float = 0.1  # σ of each sample's latent noise, uniform in 0 … this × RMS
    quantize_share: float = 0.25  # share of frames whose latents are quantised (straight-through) …
    quantize_levels: dict[int, float] = field(
        default_factory=lambda: {16: 1.0}
    )  # … levels (16: NF4) → weight
    quantize_dimensions: dict[int, int] = field(
        default_factory=dict
    )  # … levels → dimensions kept, if not all
    quantize_after: float = 0.9  # … once teacher-forced accuracy has passed this
    random_span_share: float = 0.15  # share of texts with a run of random tokens, digits, hex, names, code
    short_text_share: float = 0.5  # share of frames that are cut into several shorter texts
    # Data: file stem → weight; a file not named here is not read.
    sources: dict[str, float] = field(default_factory=dict)
    held_out: float = 0.005  # share of the texts that is never trained on, for the evaluation at the end
    evaluate_texts: int = 256  # how many of them are measured then; 0: none
    seed: int = 20251121
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        least_one = "hidden_size intermediate_size layers heads head_dim frame_tokens tokens_per_latent steps"
        for name in (*least_one.split(), "frames_per_step", "checkpoint_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "refinement_steps", "evaluate_texts", "seed", "latent_noise"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("muon_lr", "adamw_lr", "rope_theta", "latent_scale", "gradient_clip"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "above 0")
        shares = (
            "corruption quantize_share random_span_share short_text_share decay_share held_out muon_momentum"
        )
        for name in shares.split():
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "from 0 to 1")
        _check("held_out", self.held_out, self.held_out < 1, "less than 1")
        # Token ids are kept in 16 bits; bytes and special tokens are always among them.
        _check("vocabulary", self.vocabulary, 260 <= self.vocabulary <= 2**16, "from 260 to 65,536")
        _check("levels", self.levels, self.levels in LEVELS, f"one of {LEVELS}")
        for name in ("densities", "quantize_levels", "sources"):
            weights = getattr(self, name).values()
            right = all(0 <= weight < math.inf for weight in weights) and (not weights or sum(weights) > 0)
            _check(name, getattr(self, name), right, "of weights from 0, not all of them 0")
        _check("quantize_levels", self.quantize_levels, {*self.quantize_levels} <= {*LEVELS}, f"of {LEVELS}")
        _check(
            "quantize_dimensions",
            self.quantize_dimensions,
            {*self.quantize_dimensions} <= {*LEVELS}
            and all(1 <= n <= self.hidden_size for n in self.quantize_dimensions.values()),
            f"dimensions from 1 to hidden_size for levels of {LEVELS}",
        )
        lacks = bool(self.densities) and self.tokens_per_latent not in self.densities
        _check("densities", self.densities, not lacks, "given for tokens_per_latent, too")
        for ratio in (self.tokens_per_latent, *self.densities):
            divides = ratio >= 1 and self.frame_tokens % ratio == 0
            _check("tokens_per_latent", ratio, divides, f"a divisor of frame_tokens, {self.frame_tokens}")


def _check(name: str, value: object, right: bool, rule: str) -> None:
    if not right:
        raise InvalidArgument(f"{name} must be {rule}, not {value!r}")
