"""From-scratch training of a small codec: one script-like loop, resumable at every checkpoint.

    nextmem train --data TEXTS --output runs/mini --export checkpoints/mini

On CPUs two processes of one thread each beat one process of two threads (``nextmem train --help``).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.matrix import MULTIPLIES_BFLOAT16
from nextmem_agents.errors import CheckpointError, InvalidArgument
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.corpus import FrameSampler, prepare
from nextmem_agents.training.frames import pack
from nextmem_agents.training.loop import LOG_FILE, StepLog, claim
from nextmem_agents.training.optimizer import SplitOptimizer, rate_factor
from nextmem_agents.training.reconstruction import FrameCodec, reconstruction_loss

STATE = "state"
# What may change between the parts of one run: what no gradient depends on, and how far it goes.
_FREE = ("steps", "checkpoint_every", "evaluate_texts", "name", "levels", "refinement_steps")


def build(config: ScratchConfig) -> FrameCodec:
    """A codec with random weights (seeded by the configuration), or with those of ``config.start_from``.

    Raises:
        CheckpointError: ``config.start_from`` is of another shape.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(config.seed)
    backbone = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.head_dim,
            max_position_embeddings=1024,
            rope_theta=config.rope_theta,
            tie_word_embeddings=True,
            attn_implementation="eager",  # its gradient is the faster one on a CPU, by a sixth of a step in bfloat16
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    )
    codec = FrameCodec(backbone, config.latent_scale, start_of_decode=1)
    if config.start_from:
        _start_from(codec, checkpoint.find(config.start_from))
    return codec


def _start_from(codec: FrameCodec, folder: Path) -> None:
    described, parts = checkpoint.read(folder)
    weights = {f"backbone.{k}": v.float() for k, v in load_file(parts.backbone / "model.safetensors").items()}
    weights |= {
        "backbone.lm_head.weight": weights["backbone.model.embed_tokens.weight"],
        "latent_scale": torch.tensor(described.latent_scale),
        "mean_square": torch.tensor(
            described.quantization_table or [1.0] * codec.backbone.config.hidden_size
        ).square(),
    }
    try:
        missing, unexpected = codec.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder} is of another shape than the configuration asks for: {error}"
        ) from error
    if unexpected or missing != ["accuracy"]:
        raise CheckpointError(f"{folder} lacks {missing} and has {unexpected}: it is another architecture")


def save_state(run: Path, model: FrameCodec, optimizer: SplitOptimizer, step: int, rank: int) -> None:
    """Write the run's state so that a kill at any moment leaves a whole one (new folder, then rename)."""
    folder = run / f"{STATE}.partial"
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if dist.is_initialized():
        dist.barrier()
    tensors = {
        f"{name}.{index}.{key}": value.contiguous()
        for name, state in optimizer.state_dict().items()
        for index, entries in state["state"].items()
        for key, value in entries.items()
    }
    save_file(tensors, folder / f"optimizer-{rank}.safetensors")
    if rank == 0:
        weights = {k: v.contiguous() for k, v in model.state_dict().items() if k != "backbone.lm_head.weight"}
        save_file(weights, folder / "model.safetensors", metadata={"step": str(step)})
    if dist.is_initialized():
        dist.barrier()
    if rank == 0:
        old = run / f"{STATE}.old"
        if (run / STATE).exists():
            shutil.rmtree(old, ignore_errors=True)  # of a kill while it was being removed
            (run / STATE).rename(old)
        folder.rename(run / STATE)
        shutil.rmtree(old, ignore_errors=True)


def load_state(run: Path, model: FrameCodec, optimizer: SplitOptimizer | None = None, rank: int = 0) -> int:
    """Restore the last whole state of a run; returns the number of steps done (0 for a fresh run).

    Raises:
        CheckpointError: the state was written by another number of processes.
    """
    folder = run / STATE if (run / STATE).exists() else run / f"{STATE}.old"
    if not folder.exists():
        return 0
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict(
        weights | {"backbone.lm_head.weight": weights["backbone.model.embed_tokens.weight"]}
    )
    if optimizer is not None:
        if len(list(folder.glob("optimizer-*"))) != optimizer.processes:
            raise CheckpointError(f"{folder} was written by another number of processes; resume with as many")
        state: dict[str, Any] = optimizer.state_dict()
        for part in state.values():
            part["state"] = {}
        with safe_open(folder / f"optimizer-{rank}.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                name, index, entry = key.split(".", 2)
                state[name]["state"].setdefault(int(index), {})[entry] = file.get_tensor(key)
        optimizer.load_state_dict(state)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return int(file.metadata()["step"])


def is_first_process() -> bool:
    """Whether this process is the one that writes, prints and exports."""
    return os.environ.get("RANK", "0") == "0"


def train_from_scratch(config: ScratchConfig, data: Path, run: Path, *, compile_model: bool = True) -> None:
    """Train until ``config.steps``, resuming what ``run`` holds; logs one JSON line per step to ``log.jsonl``.

    Raises:
        DataError: a source's file is missing or empty.
        InvalidArgument: the processes cannot share a step's frames.
        CheckpointError: ``run`` belongs to another configuration or number of processes, or the loss is no number.
    """
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if config.frames_per_step % processes:
        raise InvalidArgument(
            f"frames_per_step, {config.frames_per_step}, is shared by {processes} processes: give a multiple"
        )
    if processes > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    run.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        claim(run, config, free=_FREE)
        prepare(data, run / "corpus", config)
    if processes > 1:
        dist.barrier()
    sampler = FrameSampler(run / "corpus", config)
    model = build(config)
    if compile_model:
        model.compile_forward()
    optimizer = SplitOptimizer(model, config, rank, processes)
    first = load_state(run, model, optimizer, rank)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True), disable=rank != 0))
        log = stack.enter_context(StepLog(run / LOG_FILE, first)) if rank == 0 else None
        task = progress.add_task("training", total=config.steps, completed=first)
        weights = sum(config.quantize_levels.values())
        levels = {n: config.quantize_share * w / weights for n, w in config.quantize_levels.items()}
        tokens_per_step = config.frames_per_step * config.frame_tokens
        for step in range(first, config.steps):
            started = time.perf_counter()
            accuracy_so_far = float(model.accuracy)
            frames = sampler.draw(step, rank, config.frames_per_step // processes)
            batch = pack(frames.texts, model.start_of_decode, 0, frames.tokens_per_latent)
            generator = torch.Generator().manual_seed(hash((config.seed, step, rank)) % 2**63)
            with torch.autocast("cpu", torch.bfloat16, enabled=MULTIPLIES_BFLOAT16):
                loss, accuracy = reconstruction_loss(
                    model,
                    batch,
                    corruption=config.corruption if accuracy_so_far >= config.corruption_after else 0.0,
                    noise=config.latent_noise,
                    levels=levels if accuracy_so_far >= config.quantize_after else {},
                    generator=generator,
                    dimensions=config.quantize_dimensions,
                )
            loss.backward()  # type: ignore[no-untyped-call]
            norm = optimizer.step(rate_factor(step, config))
            shared = torch.stack([loss.detach(), accuracy])
            if processes > 1:
                dist.all_reduce(shared)
                shared /= processes
            if not math.isfinite(float(shared[0])):
                raise CheckpointError(
                    f"the loss of step {step} is {float(shared[0])}; the state before it is kept in {run}. Lower "
                    "muon_lr and adamw_lr and start again in a new folder"
                )
            model.accuracy.clamp_(min=0.9 * float(model.accuracy) + 0.1 * float(shared[1]))
            if log is not None:
                seconds = time.perf_counter() - started
                row = {
                    "step": step,
                    "tokens": (step + 1) * tokens_per_step,
                    "loss": round(float(shared[0]), 5),
                    "accuracy": round(float(shared[1]), 5),
                    "tokens_per_latent": frames.tokens_per_latent,
                    "gradient_norm": round(norm, 4),
                    "latent_scale": round(float(model.latent_scale.detach()), 5),
                    "tokens_per_second": round(tokens_per_step / seconds, 1),
                }
                log.write(row)
                note = f"loss {row['loss']:.3f} accuracy {row['accuracy']:.4f} {row['tokens_per_second']:.0f} tokens/s"
                progress.update(task, advance=1, description=note)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save_state(run, model, optimizer, step + 1, rank)
    if processes > 1:
        dist.destroy_process_group()
