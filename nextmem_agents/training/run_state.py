"""The state of a run on disk: what a killed run goes on from.

    checkpoint-120/
        model.safetensors       the trained parameters, and no others
        optimizer-0.safetensors the state of each optimiser

A state is written into a new folder that is then renamed, so that whatever interrupts the writing, the newest
``checkpoint-N`` is whole. Older ones are removed after that.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nextmem_agents.errors import CheckpointError

MODEL_FILE = "model.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")


@contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Turn a failed write into an error that says what to do; what was whole before stays so.

    Raises:
        CheckpointError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{what} cannot be written: {error}. The run is intact up to its last checkpoint: make room (or give "
            "another folder) and start the same command again"
        ) from error


def trained(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def newest(run: Path) -> tuple[int, Path] | None:
    """The number of steps done and the folder of a run's newest state; None where it has none."""
    found = [(int(m[1]), path) for path in run.glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return max(found, default=None)


def save(run: Path, step: int, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Write the state after ``step`` steps and remove older ones.

    Raises:
        CheckpointError: it cannot be written; the state before it is kept.
    """
    target, partial = run / f"checkpoint-{step}", run / "checkpoint.partial"
    with writing(target):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            save_file(_cpu(trained(module)), partial / MODEL_FILE)
            for i, optimizer in enumerate(optimizers):
                save_file(_cpu(_flat(optimizer)), partial / f"optimizer-{i}.safetensors")
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    for path in run.glob("checkpoint-*"):
        if path != target and _NAME.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def load(
    run: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer] = (), device: Any = "cpu"
) -> int:
    """Restore the newest state; returns the number of steps done, 0 for a fresh run.

    Raises:
        CheckpointError: the state is damaged, or of other parameters.
    """
    state = newest(run)
    if state is None:
        return 0
    step, folder = state
    try:
        load_trained(module, load_file(folder / MODEL_FILE, device=str(device)), str(folder))
        for i, optimizer in enumerate(optimizers):
            _restore(optimizer, load_file(folder / f"optimizer-{i}.safetensors", device=str(device)))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}; remove it to start anew") from error
    return step


def load_trained(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Set the parameters that learn.

    Raises:
        CheckpointError: the tensors are of other parameters.
    """
    parameters = trained(module)
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())
        raise CheckpointError(
            f"{source} is of another model or configuration: {len(odd)} parameters are in only one of the two, "
            f"among them {odd[0]!r}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{source} has {name!r} of shape {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
                )
            parameter.copy_(tensors[name])


def _cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def _restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)
