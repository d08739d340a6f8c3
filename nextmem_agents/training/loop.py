"""The training loop that the language model and both LoRA stages share, on accelerate.

What a step draws and how it is shuffled depends on (seed, step, process) alone, and a state holds all that
learns and the optimiser: a run that was killed goes on to the same losses.

    accelerate launch -m nextmem_agents.cli train stage-2 …      # several GPUs, or torchrun
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from nextmem_agents.codec import tokens
from nextmem_agents.errors import CheckpointError, InvalidArgument, MissingExtra
from nextmem_agents.training import run_state, settings
from nextmem_agents.training.run_state import writing

LOG_FILE, CONFIG_FILE, INPUTS_FILE, CORPUS = "log.jsonl", "config.json", "inputs.json", "corpus"
_END_BYTES = 2**25
# What may change between the parts of one run, since no number depends on it.
_FREE = ("checkpoint_every", "evaluate_texts")

Rows = list[np.ndarray[Any, Any]]
Draw = Callable[[int, np.random.Generator], Rows]


@dataclass(frozen=True)
class LoopConfig:
    """What every kind of training takes.

    Attributes:
        steps: optimiser steps.
        batch_size: texts per process and forward pass.
        gradient_accumulation: forward passes per optimiser step.
        learning_rate: AdamW's, after the warm-up.
        warmup_steps: steps over which the rate rises linearly.
        decay_share: share of the run, at its end, over which the rate falls linearly to zero.
        weight_decay: of the weights of a LoRA stage (AdamW) and of a language model's matrices (Muon); the index head,
            span reader, reader and word vectors learn without.
        gradient_clip: largest norm of a step's gradient.
        mixed_precision: ``"bf16"`` computes in bfloat16 (autocast); what learns stays in float32.
        gradient_checkpointing: keep only each layer's input for the backward pass: a third slower, and the
            activations of one layer instead of all.
        seed: of the weights that start at random, and of what is drawn.
        checkpoint_every: steps between two states on disk.
        held_out: share of the documents that is never trained on, for the evaluation at the end.
        evaluate_texts: held-out texts of the evaluation at the end; 0: none.
        sources: names of the files that are read, without their ending; empty: all of the data folder.
    """

    steps: int = 3000
    batch_size: int = 16
    gradient_accumulation: int = 1
    learning_rate: float = 2e-4
    warmup_steps: int = 50
    decay_share: float = 0.5
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    seed: int = 20251121
    checkpoint_every: int = 100
    held_out: float = 0.02
    evaluate_texts: int = 256
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InvalidArgument(f"learning_rate must be above 0, not {self.learning_rate!r}")
        for name in ("warmup_steps", "gradient_clip", "weight_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InvalidArgument(f"{name} must not be negative: {getattr(self, name)!r}")
        if not 0 <= self.decay_share <= 1 or not 0 <= self.held_out < 1:
            raise InvalidArgument("decay_share and held_out are shares from 0 to 1")


def rate_factor(step: int, config: LoopConfig) -> float:
    """Linear warm-up, a plateau, then a linear decay to zero over the last ``decay_share`` of the run."""
    decay = max(1, int(config.steps * config.decay_share))
    return min(1.0, (step + 1) / max(1, config.warmup_steps), (config.steps - step) / decay)


def accelerator(config: LoopConfig, *, on_cpu: bool = False) -> Any:
    """The processes and devices of this run.

    Args:
        config: the run's settings.
        on_cpu: compute there even where there is a GPU: for small modules, whose batches are made of arrays in memory.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtra(
            "training needs accelerate and peft: pip install 'nextmem-agents[train]'"
        ) from error
    # One state is shared by all accelerators of a process, which would bind a second run to the first one's precision.
    AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation,
        cpu=on_cpu or not torch.cuda.is_available(),
    )


def device() -> str:
    """Where a single process computes, once the training is over."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint_activations(model: Any) -> None:
    """Keep only the layers' inputs of a transformers model for the backward pass, which computes the rest anew."""
    # transformers 5 renamed it.
    named = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    next(getattr(model, name) for name in named if hasattr(model, name))({"use_reentrant": False})
    model.train()


def claim(
    run: Path, config: Any, inputs: Mapping[str, str] | None = None, free: Sequence[str] = _FREE
) -> None:
    """Make ``run`` the folder of a run with these settings and inputs, or check that it is.

    Args:
        run: the folder.
        config: the settings.
        inputs: what else the run is made of, by name: a codec's fingerprint, or :func:`digest_of` a folder.
        free: settings that may change between the parts of one run.

    Raises:
        CheckpointError: it belongs to a run with other settings or inputs, or cannot be written.
    """
    path, made_of = run / CONFIG_FILE, run / INPUTS_FILE
    if path.is_file():
        before = settings.load(type(config), path)
        changed = [name for name in settings.differences(before, config) if name not in free]
        known = json.loads(made_of.read_text(encoding="utf-8")) if made_of.is_file() else {}
        changed += [name for name, digest in (inputs or {}).items() if known.get(name, digest) != digest]
        begun = any(file.suffix in (".npy", ".npz", ".safetensors") for file in run.rglob("*"))
        if changed and begun:
            raise CheckpointError(
                f"{run} holds a run with other settings ({', '.join(changed)} differ): resume it with its own "
                f"{path}, or give a new folder"
            )
        if changed:  # there are neither texts nor a state yet, but a tokenizer of other texts may be
            (run / CORPUS / tokens.FILE).unlink(missing_ok=True)
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        made_of.write_text(json.dumps(dict(inputs or {}), indent=1) + "\n", encoding="utf-8")
        settings.save(config, path)


def digest_of(folder: Path) -> str:
    """What tells a folder of weights and settings from another: names, sizes, and both ends (32 MiB) of each file."""
    found = blake2b(digest_size=16)
    for path in sorted(
        path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".bin")
    ):
        size = path.stat().st_size
        found.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            found.update(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            found.update(file.read(_END_BYTES))
    return found.hexdigest()


def train(
    process: Any,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    config: LoopConfig,
    run: Path,
    draw: Draw,
    title: str,
) -> None:
    """Train until ``config.steps``, going on from what ``run`` holds.

    Args:
        process: see :func:`accelerator`.
        module: ``module(rows, step)`` gives the mean loss of a batch, and figures for the log by name, one of
            them ``tokens``, the number of tokens that the loss is over.
        optimizers: of the module's trained parameters; their rates are the plateau's.
        config: the run's settings.
        run: its folder; the log is ``log.jsonl``.
        draw: rows of one forward pass, by step and generator.
        title: what the progress bar is called.

    Raises:
        CheckpointError: the state on disk is damaged or of another run, or cannot be written.
    """
    first = run_state.load(run, module, optimizers, process.device)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    prepared = process.prepare(module, *optimizers)
    model, wrapped = prepared[0], prepared[1:]
    parameters = [p for p in module.parameters() if p.requires_grad]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(*columns, console=Console(stderr=True), disable=not process.is_main_process)
        )
        log = stack.enter_context(StepLog(run / LOG_FILE, first)) if process.is_main_process else None
        task = progress.add_task(title, total=config.steps, completed=first)
        for step in range(first, config.steps):
            started = time.perf_counter()
            # Whatever a forward pass draws at random is a function of the step, too.
            torch.manual_seed(_seed(config.seed, step, process.process_index))
            factor = rate_factor(step, config)
            for optimizer, initial in zip(wrapped, rates, strict=True):
                for group, rate in zip(optimizer.param_groups, initial, strict=True):
                    group["lr"] = rate * factor
            totals: dict[str, Tensor] = {}
            for part in range(config.gradient_accumulation):
                rng = np.random.default_rng((config.seed, step, process.process_index, part))
                with process.accumulate(model):
                    loss, figures = model(draw(step, rng), step)
                    process.backward(loss)
                    if process.sync_gradients:
                        norm = process.clip_grad_norm_(parameters, config.gradient_clip)
                        figures = {**figures, "gradient_norm": torch.as_tensor(norm)}
                    for optimizer in wrapped:
                        optimizer.step()
                        optimizer.zero_grad()
                _add(totals, {"loss": loss.detach(), **figures})
            row = _means(process, totals, config.gradient_accumulation)
            if not math.isfinite(row["loss"]):
                raise CheckpointError(
                    f"the loss of step {step} is {row['loss']}; the state before it is kept in {run}. Lower "
                    "learning_rate and start again in a new folder"
                )
            if log is not None:
                speed = row["tokens"] / (time.perf_counter() - started)
                log.write({"step": step, **row, "learning_rate_factor": factor, "tokens_per_second": speed})
                shown = {
                    name: value for name, value in row.items() if name not in ("tokens", "gradient_norm")
                }
                note = " ".join(f"{name} {value:.4g}" for name, value in shown.items())
                progress.update(task, advance=1, description=f"{title}: {note}, {speed:.0f} tokens/s")
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.steps:
                process.wait_for_everyone()
                if process.is_main_process:
                    run_state.save(run, done, module, optimizers)
                process.wait_for_everyone()


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _add(totals: dict[str, Tensor], figures: Mapping[str, Tensor]) -> None:
    for name, value in figures.items():
        totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach()


def _means(process: Any, totals: Mapping[str, Tensor], parts: int) -> dict[str, float]:
    """Means over forward passes and processes; ``tokens`` is summed."""
    once = ("tokens", "gradient_norm")
    named = torch.stack(
        [value.float().to(process.device) / (1 if name in once else parts) for name, value in totals.items()]
    )
    summed = process.reduce(named, reduction="sum").tolist()
    return {
        name: value if name == "tokens" else value / process.num_processes
        for name, value in zip(totals, summed, strict=True)
    }


class StepLog:
    """One JSON line per step; lines past the state that a run goes on from are dropped."""

    def __init__(self, path: Path, first: int):
        self.path = path
        with writing(path):
            if path.is_file():
                whole = [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]
                kept = [line for line in whole if json.loads(line)["step"] < first]
                temporary = path.with_suffix(".partial")
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
                temporary.replace(path)
            self.file = path.open("a", encoding="utf-8")

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, row: Mapping[str, float]) -> None:
        """Add a step's line."""
        rounded = {k: v if isinstance(v, int) else float(f"{v:.9g}") for k, v in row.items()}
        with writing(self.path):
            self.file.write(json.dumps(rounded) + "\n")
            self.file.flush()
