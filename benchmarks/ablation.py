"""The paper's two LoRA stages on a language model pretrained here, whole and with a part left out.

    python benchmarks/ablation.py --data TEXTS --runs runs/ablation      # writes benchmarks/ablation.md

Pretrains a small Qwen3 on the texts, then trains stage 1 and stage 2 on it: the full recipe, without [SoD], without
stage 2 and without progressive substitution, each with the same number of steps on the same texts. The full recipe
is exported, reloaded, and measured again from the codec's folder. Stage 2 is trained from two seeds, which draw
other texts in another order: one alone can turn a small difference round. Every run resumes what its folder holds.

Texts have 20 to 30 tokens, in up to 15 latents, as many as the paper has. With texts of 4 to 16, progressive steps
were worth nothing (F1 .42 with and without, two seeds, commit ef89594), perhaps since the short ones among them are
steps of their own; where all had 16, a decoder could copy by distance alone, and [SoD] told it nothing that the
position did not. Positions are consecutive, as in the released
codec; `--positions aligned` tells the decoder where a latent's text stood, and then less is left for progressive steps
to teach.

F1 is over words of held-out texts, greedy and free-running, from latents that were not quantised and without repair.
The paper reports for RACE, with Qwen3-8B and 15 latents: 0.855 whole, 0.380 without [SoD], 0.016 without stage 2,
0.739 without progressive substitution.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from report import write_table

from nextmem_agents import LatentCodec
from nextmem_agents.codec.decoder import teacher_forced_batch
from nextmem_agents.codec.encoder import pad_ids
from nextmem_agents.codec.matrix import MULTIPLIES_BFLOAT16
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.evaluation.metrics import token_f1
from nextmem_agents.training import run_state, stage_2
from nextmem_agents.training.held_out import held_out_texts
from nextmem_agents.training.language_model import (
    LanguageModelConfig,
    export_language_model,
    train_language_model,
)
from nextmem_agents.training.loop import CORPUS
from nextmem_agents.training.lora_export import export_codec
from nextmem_agents.training.stage_1 import Stage1Config, export_stage_1, train_stage_1
from nextmem_agents.training.stage_2 import Stage2Config, train_stage_2
from nextmem_agents.training.substitution import Substitution

SOURCES = ("squad_contexts", "synthetic_persona_chat", "wikisplit_wikipedia")
PRECISION: Literal["no", "bf16"] = "bf16" if MULTIPLIES_BFLOAT16 else "no"
LANGUAGE_MODEL = LanguageModelConfig(
    steps=1900,
    batch_size=24,
    learning_rate=4e-3,
    hidden_size=256,
    intermediate_size=640,
    layers=4,
    heads=4,
    key_value_heads=4,
    head_dim=64,
    vocabulary=1024,
    window=128,
    repeated_share=0.5,
    mixed_precision=PRECISION,
    sources=(*SOURCES, "2wiki_wikipedia", "openstax", "standardebooks", "topical_chat", "qmsum"),
)
STAGE_1 = Stage1Config(
    steps=200,
    batch_size=32,
    learning_rate=3e-3,
    warmup_steps=10,
    min_tokens=20,
    max_tokens=30,
    mixed_precision=PRECISION,
    positions="consecutive",
    sources=SOURCES,
)
STAGE_2 = Stage2Config(
    name="ablation",
    steps=2400,
    mixed_precision=PRECISION,
    batch_size=16,
    learning_rate=3e-3,
    warmup_steps=20,
    decay_share=0.4,
    tokens_per_latent=2,
    last_share=0.5,
    latent_scale=None,
    corruption=0.1,
    seed=0,
    sources=SOURCES,
)
TEXTS = 1024  # at the most
SEEDS = (STAGE_2.seed, 7)
Figures = tuple[float, float, float]


def held_out(run: Path, tokenizer: CodecTokenizer, length: int) -> list[list[int]]:
    """Held-out texts of a run, each cut to ``length`` tokens."""
    rows = tokenizer.encode(held_out_texts(run / CORPUS))
    rows = [row[:length] for row in rows if len(row) >= length]
    return rows[:: max(1, len(rows) // TEXTS)][:TEXTS]  # of all sources, which stand one after another


def reconstructed(module: Substitution, run: Path, length: int, blocks: int) -> Figures:
    """Word F1, share of exact texts, and fidelity over held-out texts."""
    tokenizer = CodecTokenizer.load(run / CORPUS)
    rows = held_out(run, tokenizer, length)
    batches = [rows[i : i + 32] for i in range(0, len(rows), 32)]
    outputs = [row for batch in batches for row in module.repeat(batch, blocks)]
    texts = [tokenizer.to_text(row) for row in outputs]
    return figures(tokenizer, rows, texts, fidelities(module, batches, blocks))


def reconstructed_by(codec: LatentCodec, run: Path, length: int) -> Figures:
    """The same of a codec, as its users run it."""
    rows = held_out(run, codec.tokenizer, length)
    latents = codec.encode_ids(rows)
    _, leads = teacher_forced_batch(codec.decoder, codec.config, latents.values, latents.lengths, rows)
    right = [sum(lead > 0 for lead in row) / len(row) for row in leads]
    return figures(codec.tokenizer, rows, codec.decode(latents, max_new_tokens=length), right)


def figures(
    tokenizer: CodecTokenizer, rows: list[list[int]], texts: list[str], fidelity: list[float]
) -> Figures:
    """Mean word F1, share of exact texts and mean fidelity, of ``rows`` and what was written in their place."""
    true = [tokenizer.to_text(row) for row in rows]
    scores = [token_f1(a.split(), b.split()) for a, b in zip(texts, true, strict=True)]
    exact = sum(a == b for a, b in zip(texts, true, strict=True))
    return sum(scores) / len(rows), exact / len(rows), sum(fidelity) / len(rows)


@torch.inference_mode()
def fidelities(module: Substitution, batches: list[list[list[int]]], blocks: int) -> list[float]:
    """Of each text, the share of tokens that the decoder has right where all before it are given."""
    found = []
    for batch in batches:
        ids, mask = pad_ids(batch, 0, module.device)
        logits = module.logits(batch, module.latents(batch, blocks), blocks, ids)[:, :-1]
        found += (((logits.argmax(-1) == ids) * mask).sum(1) / mask.sum(1)).tolist()
    return found


def cells(found: list[Figures]) -> list[str]:
    """The mean of each figure over the seeds, and each seed's."""
    means = [sum(each) / len(found) for each in zip(*found, strict=True)]
    apart = [", ".join(f"{figure:.3f}" for figure in each) for each in zip(*found, strict=True)]
    if len(found) == 1:
        return apart
    return [f"{mean:.3f} ({each})" for mean, each in zip(means, apart, strict=True)]


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """``folder``, made if it is not there."""
    if not folder.exists():
        make(folder)
    return folder


def main() -> None:
    """Train what is missing, measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help=f"folder with the texts {', '.join(SOURCES)}"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--positions", choices=("consecutive", "aligned"), default=STAGE_1.positions)
    parser.add_argument("--language-model-steps", type=int, default=LANGUAGE_MODEL.steps)
    parser.add_argument("--stage-1-steps", type=int, default=STAGE_1.steps)
    parser.add_argument("--stage-2-steps", type=int, default=STAGE_2.steps)
    arguments = parser.parse_args()
    data, runs = arguments.data, arguments.runs

    model = dataclasses.replace(LANGUAGE_MODEL, steps=arguments.language_model_steps)
    train_language_model(model, data, runs / "lm")
    backbone = once(runs / "lm-export", lambda folder: export_language_model(runs / "lm", folder))

    stages = {}
    for name, start in (("1", True), ("1-without-sod", False)):
        one = dataclasses.replace(
            STAGE_1, steps=arguments.stage_1_steps, positions=arguments.positions, start_of_decode=start
        )
        train_stage_1(one, backbone, data, runs / name)
        stages[start] = once(
            runs / f"{name}-export",
            lambda folder, name=name: export_stage_1(runs / name, backbone, folder),
        )

    rows = []
    two = dataclasses.replace(STAGE_2, steps=arguments.stage_2_steps)
    for title, name, start, progressive, trained in (
        ("full recipe", "2", True, True, True),
        ("without [SoD]", "2-without-sod", False, True, True),
        ("without stage 2", "2", True, True, False),
        ("without progressive substitution", "2-at-once", True, False, True),
    ):
        found = []
        for seed in SEEDS if trained else SEEDS[:1]:
            config = dataclasses.replace(two, progressive=progressive, seed=seed)
            run = runs / (name if seed == SEEDS[0] else f"{name}-seed{seed}")
            if trained:
                train_stage_2(config, backbone, stages[start], data, run)
            module, _ = stage_2.build(config, backbone, stages[start])
            if trained:
                run_state.load(run, module)
            found.append(reconstructed(module, run, STAGE_1.max_tokens, module.config.max_latents))
        rows.append((title, *cells(found)))

    codec_folder = once(
        runs / "codec",
        lambda folder: export_codec(runs / "2", backbone, stages[True], folder, copy_backbone=True),
    )
    codec = LatentCodec.load(codec_folder)
    measured = reconstructed_by(codec, runs / "2", STAGE_1.max_tokens)
    rows.append(("full recipe, first seed, exported and reloaded", *cells([measured])))
    texts = len(held_out(runs / "2", codec.tokenizer, STAGE_1.max_tokens))
    note = (
        f"{sum(p.numel() for p in codec.decoder.model.parameters()):,} parameters, trained on texts of "
        f"{STAGE_1.min_tokens} to {STAGE_1.max_tokens} tokens, measured on {STAGE_1.max_tokens} in "
        f"{codec.config.max_latents} latents, {arguments.positions} positions; {arguments.language_model_steps} steps "
        f"of pretraining, {arguments.stage_1_steps} of stage 1, {arguments.stage_2_steps} of stage 2; means of "
        f"{len(SEEDS)} seeds of stage 2, and each one's. F1 and exact: {texts} held-out texts, free-running from "
        "unquantised latents, no repair. Fidelity: teacher-forced. Paper, "
        "RACE: F1 0.855, 0.380, 0.016, 0.739."
    )
    header = ("recipe", "F1", "exact", "fidelity")
    write_table(__file__, "The two LoRA stages, whole and in part", note, header, rows)


if __name__ == "__main__":
    main()
