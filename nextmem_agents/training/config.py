"""The settings of from-scratch codec training, saved beside every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
