"""From the two LoRA stages to a checkpoint folder: calibrated, measured on held-out text, with its model card."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np

from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.checkpoint import Parts
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CheckpointError
from nextmem_agents.evaluation.reconstruction import Reconstruction, measure
from nextmem_agents.training import loop, passages, settings, stage_2
from nextmem_agents.training.adapters import save_adapter, trained_count
from nextmem_agents.training.card import CARD_FILE, model_card
from nextmem_agents.training.export import calibrate
from nextmem_agents.training.held_out import held_out_chunks
from nextmem_agents.training.loop import CORPUS
from nextmem_agents.training.run_state import writing
from nextmem_agents.training.stage_1 import Stage1Config, read_stage_1
from nextmem_agents.training.stage_2 import Stage2Config

_CALIBRATION_TEXTS = 256


def export_codec(
    run: Path, backbone: Path, stage_1: Path, folder: Path, *, copy_backbone: bool = False
) -> Reconstruction | None:
    """Write the codec of a stage-2 run's last state, ``LatentCodec.load`` and PEFT's own loaders can read it.

    Args:
        run: the run's folder.
        backbone: the folder that both stages were trained on.
        stage_1: the stage-1 folder that the run went on from.
        folder: new, or empty.
        copy_backbone: bring the backbone along in place of a reference to its folder.

    Returns:
        How well held-out texts come back, as the model card says; None without held-out texts.

    Raises:
        CheckpointError: the run has no state, ``folder`` exists and is not empty, or it cannot be written.
    """
    config = settings.load(Stage2Config, run / loop.CONFIG_FILE)
    before, special, tokenizer_json = read_stage_1(stage_1)
    if not before.start_of_decode:
        raise CheckpointError(
            f"{stage_1} was trained without [SoD], which every codec has: it serves to compare only"
        )
    checkpoint.new_folder(folder)
    module, wrapped = stage_2.load_trained(config, backbone, stage_1, run)
    codec, trained = module.config, trained_count(module)
    if codec.quantization == "per_latent":
        rows = _calibration_rows(run, before, config.seed)
        table = calibrate(Backbone(module.encoder, special), codec, rows)
        codec = dataclasses.replace(codec, quantization_table=table)
    codec = dataclasses.replace(codec, backbone=str(backbone.resolve()))
    partial = folder.with_name(f"{folder.name}.partial")
    with writing(folder), tempfile.TemporaryDirectory() as temporary:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            encoder_adapter = Path(temporary) / "encoder"
            save_adapter(wrapped, encoder_adapter)
            parts = Parts(backbone, tokenizer_json, (stage_1, encoder_adapter), special)
            checkpoint.save(partial, codec, parts, copy_backbone=copy_backbone)
            del module, wrapped  # two backbones need not fit a device that trained one
            found = _measure(partial, run, config)
            card = _card(config, before, found, trained, backbone.name)
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
            folder.rmdir()
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return found


def _calibration_rows(run: Path, before: Stage1Config, seed: int) -> list[list[int]]:
    drawn, rng = passages.Passages(run / CORPUS), np.random.default_rng(seed)
    return [
        drawn.passage(rng, before.min_tokens, before.max_tokens).tolist() for _ in range(_CALIBRATION_TEXTS)
    ]


def _measure(folder: Path, run: Path, config: Stage2Config) -> Reconstruction | None:
    if not config.evaluate_texts:
        return None
    codec = LatentCodec.load(
        folder, device=loop.device(), dtype=config.dtype, load_in_4bit=config.load_in_4bit
    )
    texts = held_out_chunks(run / CORPUS, codec, config.evaluate_texts)
    return measure(codec, texts) if texts else None


def _card(
    config: Stage2Config, before: Stage1Config, found: Reconstruction | None, trained: int, backbone: str
) -> str:
    density = (
        f"{config.fixed_latents} latents per chunk"
        if config.tokens_per_latent is None
        else f"one latent per {config.tokens_per_latent} tokens"
    )
    about = (
        f"A NextMem codec (arXiv 2603.15634): LoRA adapters that make {backbone} turn a text of up to "
        f"{before.max_tokens} tokens\ninto latents ({density}, {before.positions} positions) and back. The encoder's "
        f"adapter has {trained:,} parameters."
    )
    return model_card(config.name, about, found, {"Stage 1": before, "Stage 2": config}, backbone)
