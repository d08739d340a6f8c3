"""From a training run to a checkpoint folder: bf16 weights, calibrated quantisation table, fingerprint."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.codec.span_reader import SpanReader
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import CheckpointError
from nextmem_agents.quantization.latents import NF4_LEVELS
from nextmem_agents.training import settings
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.corpus import END_OF_TEXT, SPECIAL_TOKENS, START_OF_DECODE
from nextmem_agents.training.scratch import build, load_state

_CALIBRATION_TEXTS = 256


def calibrate(backbone: Backbone, config: CodecConfig, texts: list[list[int]]) -> tuple[float, ...]:
    """Root mean square of each latent dimension over texts (token ids): the table of ``per_latent`` NF4."""
    total = torch.zeros(backbone.hidden_size)
    count = 0
    for begin in range(0, len(texts), 32):
        values, lengths = encode_batch(backbone, config, texts[begin : begin + 32])
        total += values.square().sum((0, 1)).cpu()
        count += int(lengths.sum())
    # Six digits are far below what four bits resolve, and keep nextmem.json readable.
    return tuple(round(value, 6) for value in (total / count).sqrt().tolist())


def save_codec(
    folder: Path,
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    config: CodecConfig,
    texts: list[str],
) -> None:
    """Calibrate on ``texts`` and write the checkpoint folder.

    Raises:
        CheckpointError: the folder exists and is not empty.
    """
    ids = CodecTokenizer(tokenizer).encode(texts)
    table = calibrate(Backbone(model), config, [row[: config.max_tokens] for row in ids if row])
    config = dataclasses.replace(config, quantization_table=table)
    checkpoint.write(folder, config, model.config, weights, tokenizer.to_str())


def export_run(run: Path, folder: Path) -> None:
    """Write the checkpoint folder of a from-scratch run's last state.

    Raises:
        CheckpointError: the run has no state, or ``folder`` exists and is not empty.
    """
    config = settings.load(ScratchConfig, run / "config.json")
    codec = build(config)
    if load_state(run, codec) == 0:
        raise CheckpointError(f"{run} holds no training state; train first")
    tokenizer = Tokenizer.from_file(str(run / "corpus" / "tokenizer.json"))
    model = codec.backbone.to(torch.bfloat16)
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    few = config.levels != NF4_LEVELS
    described = CodecConfig(
        name=config.name,
        start_of_decode=SPECIAL_TOKENS.index(START_OF_DECODE),
        end_of_text=SPECIAL_TOKENS.index(END_OF_TEXT),
        max_tokens=config.frame_tokens,
        tokens_per_latent=config.tokens_per_latent,
        positions="aligned",
        latent_scale=float(codec.latent_scale.detach()),
        quantization="few_levels" if few else "per_latent",
        quantization_levels=config.levels if few else None,
        kept_dimensions=tuple(sorted(config.quantize_dimensions.items())),
        densities=tuple(sorted(config.densities)),
        refinement_steps=config.refinement_steps,
    )
    texts = _calibration_texts(run, config, tokenizer)
    save_codec(folder, model.float(), weights, tokenizer, described, texts)


def _calibration_texts(run: Path, config: ScratchConfig, tokenizer: Tokenizer) -> list[str]:
    from nextmem_agents.training.corpus import FrameSampler

    sampler = FrameSampler(run / "corpus", config)
    frames = sampler.draw(step=0, rank=0, count=_CALIBRATION_TEXTS)
    texts = [tokenizer.decode(text.tolist()) for frame in frames.texts for text in frame]
    random.Random(config.seed).shuffle(texts)
    return texts[:_CALIBRATION_TEXTS]


def extend_codec(
    codec: str | Path,
    folder: Path,
    *,
    head: IndexHead | None = None,
    reader: Path | None = None,
    span_reader: SpanReader | None = None,
) -> None:
    """Write a codec again, with an index head, a reader's adapter (PEFT's folder) or a span reader trained for it.

    Latents and decoding stay what they were. With an index head or an adapter, the fingerprint is a new one.

    Raises:
        CheckpointError: there is no such codec, or ``folder`` exists and is not empty.
    """
    config, parts = checkpoint.read(checkpoint.find(codec))
    if head is not None:
        parts = dataclasses.replace(parts, index_head=head)
    if reader is not None:
        parts = dataclasses.replace(parts, reader=reader)
        config = dataclasses.replace(config, answer_layout="reader")
    if span_reader is not None:
        parts = dataclasses.replace(parts, span_reader=span_reader)
    checkpoint.save(folder, config, parts)
