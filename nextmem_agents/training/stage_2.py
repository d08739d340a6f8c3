"""Stage 2, progressive latent substitution: the encoder learns latents that a frozen decoder reads as text.

    nextmem train stage-2 --backbone Qwen3-8B/ --stage-1 stage_1/ --data texts/ --output runs/2 --export codec/

The decoder is the backbone with stage 1 merged; it stays as it is. The leading blocks of the text it reads are
replaced by latents, one block more per progressive step, until only latents remain. What learns is the encoder's
LoRA adapter, on top of stage 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.projection import reduced
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import CheckpointError, InvalidArgument
from nextmem_agents.training import loop, passages, run_state
from nextmem_agents.training.adapters import LatentConfig, decoder_and_encoder, load_backbone
from nextmem_agents.training.language_model import end_of_text
from nextmem_agents.training.loop import CORPUS
from nextmem_agents.training.stage_1 import Stage1Config, prepare, read_stage_1, start_of_decode
from nextmem_agents.training.substitution import Substitution, progressive_blocks

_GEOMETRY = ("tokens_per_latent", "fixed_latents", "block_tokens", "latent_scale")


@dataclass(frozen=True)
class Stage2Config(LatentConfig):
    """Stage 2, besides what :class:`LatentConfig`, :class:`AdapterConfig` and :class:`LoopConfig` document.

    Attributes:
        name: the codec's.
        progressive: False replaces all blocks from the first step on, to show what the steps are worth.
        last_share: share of the run in which only latents remain; the steps before it share the rest.
    """

    name: str = "nextmem-lora"
    progressive: bool = True
    last_share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.last_share <= 1:
            raise InvalidArgument("last_share is a share from 0 to 1")


def train_stage_2(config: Stage2Config, backbone: Path, stage_1: Path, data: Path, run: Path) -> None:
    """Train until ``config.steps``, going on from what ``run`` holds.

    Args:
        config: the settings.
        backbone: the folder that stage 1 was trained on.
        stage_1: what :func:`~nextmem_agents.training.stage_1.export_stage_1` wrote.
        data: a text file or a folder of them.
        run: the run's folder.

    Raises:
        DataError: a text file is missing, malformed or empty.
        CheckpointError: backbone and stage 1 do not fit, ``run`` is of other settings, or it cannot be written.
    """
    process = loop.accelerator(config)
    before, _, tokenizer_json = read_stage_1(stage_1)
    if process.is_main_process:
        inputs = {"backbone": loop.digest_of(backbone), "stage 1": loop.digest_of(stage_1)}
        loop.claim(run, config, inputs)
        prepare(config.sources, config.held_out, tokenizer_json, data, run)
    process.wait_for_everyone()
    module, _ = build(config, backbone, stage_1, process.device)
    drawn = passages.Passages(run / CORPUS)

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        return [drawn.passage(rng, before.min_tokens, before.max_tokens) for _ in range(config.batch_size)]

    optimizer = torch.optim.AdamW(
        run_state.trained(module).values(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    loop.train(process, module, [optimizer], config, run, draw, "stage 2")


def codec_config(
    config: Stage2Config, before: Stage1Config, tokenizer: CodecTokenizer, hidden_size: int
) -> CodecConfig:
    """What the two stages make of a codec, but for its scale and its calibration."""
    chat_end = tokenizer.tokenizer.token_to_id("<|im_end|>")
    return CodecConfig(
        name=config.name,
        start_of_decode=start_of_decode(tokenizer),
        end_of_text=end_of_text(tokenizer.tokenizer),
        end_tokens=() if chat_end is None else (int(chat_end),),
        max_tokens=before.max_tokens,
        tokens_per_latent=config.tokens_per_latent,
        fixed_latents=config.fixed_latents,
        positions=before.positions,
        quantization="per_latent" if config.fixed_latents is None else "per_dimension",
        index_dimensions=reduced(hidden_size),
        adapters=True,
    )


def build(
    config: Stage2Config, backbone: Path, stage_1: Path, device: Any = "cpu"
) -> tuple[Substitution, Any]:
    """The module that learns, and PEFT's model of the encoder in it.

    Raises:
        CheckpointError: backbone and stage 1 do not fit.
    """
    before, special, tokenizer_json = read_stage_1(stage_1)
    model = load_backbone(backbone, special, config, device)
    tokenizer = CodecTokenizer.parse(tokenizer_json, str(stage_1))
    codec = codec_config(config, before, tokenizer, model.config.hidden_size)
    codec = dataclasses.replace(codec, latent_scale=config.scale(model))
    if before.latent_share and (
        changed := [n for n in _GEOMETRY if getattr(before, n) != getattr(config, n)]
    ):
        raise CheckpointError(
            f"stage 1 in {stage_1} learned to read other latents: give stage 2 its {', '.join(changed)}"
        )
    decoder, encoder, wrapped = decoder_and_encoder(model, stage_1, config)
    most = codec.max_latents

    def blocks(step: int) -> int:
        return progressive_blocks(step, config.steps, most, config.last_share) if config.progressive else most

    module = Substitution(
        encoder,
        decoder,
        codec,
        block_tokens=config.block,
        blocks=blocks,
        addition=special.additions[0].to(device),
        corruption=config.corruption,
        latent_noise=config.latent_noise,
        start_of_decode=before.start_of_decode,
    )
    return module, wrapped


def load_trained(config: Stage2Config, backbone: Path, stage_1: Path, run: Path) -> tuple[Substitution, Any]:
    """What :func:`build` gives, with the run's last state.

    Raises:
        CheckpointError: the run has no state.
    """
    module, wrapped = build(config, backbone, stage_1, loop.device())
    if run_state.load(run, module, device=loop.device()) == 0:
        raise CheckpointError(f"{run} holds no training state; train first")
    return module, wrapped
