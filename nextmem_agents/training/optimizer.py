"""Muon on matrices, AdamW on the rest, with the matrices' updates shared out among the processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.muon import Muon

_SCALAR_RATE = 0.02


def muon_and_adamw(module: nn.Module, learning_rate: float, adamw_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of linear layers, AdamW for all else that learns; for one process."""
    matrices = [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and min(layer.weight.shape) > 1
    ]
    others = [
        p for p in module.parameters() if p.requires_grad and not any(p is matrix for matrix in matrices)
    ]
    return [
        Muon(matrices, learning_rate),
        torch.optim.AdamW(others, adamw_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class SplitOptimizer:
    """Muon (orthogonalised momentum) for weight matrices, AdamW for embeddings, norms and the scalar.

    Muon's orthogonalisation costs as much as a fifth of a step, and every process would repeat it: each
    process owns every n-th matrix, steps only those, and sends them to the others.
    """

    def __init__(self, model: nn.Module, config: ScratchConfig, rank: int = 0, processes: int = 1):
        self.processes = processes
        self.matrices: list[Tensor] = []
        others: list[Tensor] = []
        scalars: list[Tensor] = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                self.matrices.append(parameter)
            else:
                (others if parameter.ndim else scalars).append(parameter)
        self.owned = self.matrices[rank::processes]
        self.muon = Muon(
            [{"params": self.owned, "rate": config.muon_lr}], config.muon_lr, config.muon_momentum
        )
        # Adam moves a parameter by its rate at every step: a scale of 0.02 would walk off at that of the vectors.
        groups = [
            {"params": others, "rate": config.adamw_lr},
            {"params": scalars, "rate": _SCALAR_RATE * config.adamw_lr},
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.parameters: list[Tensor] = self.matrices + others + scalars
        self.clip = config.gradient_clip

    def step(self, factor: float) -> float:
        """Average the gradients over processes, clip, and step at ``factor`` of the base rates.

        Returns the gradient norm before clipping.
        """
        if self.processes > 1:
            flat = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
            dist.all_reduce(flat)
            flat /= self.processes
            begin = 0
            for p in self.parameters:
                if p.grad is not None:
                    p.grad.copy_(flat[begin : begin + p.numel()].view_as(p))
                    begin += p.numel()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.clip))
        for optimizer in (self.muon, self.adamw):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * factor
            optimizer.step()
        for p in self.parameters:
            p.grad = None
        if self.processes > 1:
            for i, matrix in enumerate(self.matrices):
                dist.broadcast(matrix.data, src=i % self.processes)
        return norm

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The state of this process's two optimisers."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Restore what ``state_dict`` gave, in a run of the same number of processes."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def rate_factor(step: int, config: ScratchConfig) -> float:
    """Linear warm-up, a plateau, then a linear decay to zero over the last ``decay_share`` of the run."""
    decay_steps = max(1, int(config.steps * config.decay_share))
    return min(1.0, (step + 1) / max(1, config.warmup_steps), (config.steps - step) / decay_steps)
