"""LoRA adapters in PEFT's folder format, merged into a model's weights or set beside them.

Adapters are read and applied here without PEFT: a side path belongs to one module tree for good, so that
there is no active adapter to switch, and nothing that two threads could see each other change.

    y = W x + s B (A x),   s = lora_alpha / r, or lora_alpha / sqrt(r) with rank-stabilised scaling

(Hu et al., "LoRA", 2021, arXiv 2106.09685; Kalajdzievski, 2023, arXiv 2312.03732.)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nextmem_agents.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# Settings that change what an adapter computes and that no codec of this project or the paper's release uses.
_UNSUPPORTED = (
    "use_dora", "use_qalora", "fan_in_fan_out", "lora_bias", "modules_to_save", "alpha_pattern",
    "rank_pattern", "layer_replication", "target_parameters", "trainable_token_indices",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """One adapter, as its folder has it.

    Attributes:
        factors: module path → (A [r, in], B [out, r]), in the file's dtype.
        scale: s above.
        targets: the names of modules that it says it adapts; None where that is not a plain list.
        source: what error messages call it.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    scale: float
    targets: tuple[str, ...] | None
    source: str

    @classmethod
    def read(cls, folder: Path) -> LoraAdapter:
        """Read an adapter folder.

        Raises:
            CheckpointError: a file is missing, damaged or not LoRA as this module computes it, or its tensors
                are not of the rank that the configuration states.
        """
        settings = _read_settings(folder)
        try:
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from error
        rank = settings["r"]
        halves: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            match = _KEY.fullmatch(key)
            if match is None:
                raise CheckpointError(f"{folder / WEIGHTS_FILE} holds {key!r}, which is no LoRA factor")
            if tensor.ndim != 2 or tensor.shape[0 if match["factor"] == "A" else 1] != rank:
                raise CheckpointError(
                    f"{key!r} in {folder} has shape {tuple(tensor.shape)}, but {CONFIG_FILE} says rank {rank}"
                )
            halves.setdefault(match["module"], {})[match["factor"]] = tensor
        for module, pair in halves.items():
            if len(pair) != 2:
                raise CheckpointError(
                    f"{folder} has only half of the adapter of {module!r}: the file is incomplete"
                )
        targets = settings.get("target_modules")
        narrowed = settings.get("layers_to_transform") is not None or settings.get("exclude_modules")
        return cls(
            factors={module: (pair["A"], pair["B"]) for module, pair in halves.items()},
            scale=_scale(settings),
            targets=tuple(targets) if isinstance(targets, list) and not narrowed else None,
            source=str(folder),
        )

    def check(self, model: nn.Module) -> None:
        """Compare with the model that it is meant for.

        Raises:
            CheckpointError: a target is missing on either side, or a factor has another shape than the
                weight.
        """
        modules = dict(model.named_modules())
        if self.targets is not None:
            wanted = {
                name for name in modules if name.endswith(tuple(f".{target}" for target in self.targets))
            }
            if missing := sorted(wanted - self.factors.keys()):
                raise CheckpointError(
                    f"adapter {self.source} lacks {len(missing)} of {len(wanted)} modules, among them "
                    f"{missing[0]!r}: "
                    "it is incomplete, or of a smaller backbone"
                )
        for name, (a, b) in self.factors.items():
            module = modules.get(name)
            width = getattr(module, "in_features", None), getattr(module, "out_features", None)
            if module is None or None in width:
                raise CheckpointError(
                    f"adapter {self.source} adapts {name!r}, which is no linear module of this backbone: "
                    "it was trained on another one"
                )
            if (a.shape[1], b.shape[0]) != width:
                raise CheckpointError(
                    f"adapter {self.source} maps {a.shape[1]} to {b.shape[0]} values in {name!r}, where this "
                    f"backbone "
                    f"maps {width[0]} to {width[1]}: it was trained on another one"
                )

    def merge(self, model: nn.Module) -> None:
        """W ← W + s B A, for good: the product in float32, the sum rounded to the weight's dtype.

        Raises:
            CheckpointError: see :meth:`check`.
        """
        self.check(model)
        for name, (a, b) in self.factors.items():
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)  # noqa: S101 - narrows the type; check() saw a linear module
            delta = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            weight.data.add_(delta.mul_(self.scale))

    def attach(self, model: nn.Module) -> None:
        """Set the adapter beside the weights of this module tree, and of no other tree that shares them.

        Raises:
            CheckpointError: see :meth:`check`.
        """
        self.check(model)
        for name, (a, b) in self.factors.items():
            parent, _, child = name.rpartition(".")
            setattr(
                model.get_submodule(parent), child, LoraLinear(model.get_submodule(name), a, b, self.scale)
            )


class LoraLinear(nn.Module):
    """A linear module with a side path; the side path is in float32, the sum in y's dtype."""

    def __init__(self, linear: nn.Module, a: Tensor, b: Tensor, scale: float):
        super().__init__()
        self.linear = linear
        self.scale = scale
        self.in_features, self.out_features = linear.in_features, linear.out_features
        device = next(linear.parameters()).device
        self.a = nn.Parameter(a.to(device, torch.float32), requires_grad=False)
        self.b = nn.Parameter(b.to(device, torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Y [..., out] of x [..., in]."""
        y: Tensor = self.linear(x)
        side = F.linear(F.linear(x.to(self.a.device, torch.float32), self.a), self.b)
        return (y + (side * self.scale).to(y.device)).to(y.dtype)


def read_scale(folder: Path) -> float:
    """The scale of an adapter folder.

    Raises:
        CheckpointError: see :meth:`LoraAdapter.read`.
    """
    return _scale(_read_settings(folder))


def _scale(settings: dict[str, Any]) -> float:
    rank: int = settings["r"]
    return float(settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank))


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha, kind = settings["r"], settings["lora_alpha"], settings["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a LoRA configuration: {error!r}") from error
    if kind != "LORA" or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise CheckpointError(f"{path} describes {kind!r} of rank {rank!r}; a codec's adapters are LoRA")
    used = [name for name in _UNSUPPORTED if settings.get(name)]
    if settings.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise CheckpointError(f"{path} uses {', '.join(used)}, which a codec's adapters do not have")
    return dict(settings)
