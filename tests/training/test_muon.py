"""Muon in float32 does what torch's does in bfloat16, and goes on from its state."""

from __future__ import annotations

import torch

from nextmem_agents.training.muon import Muon, orthogonalise


def problem(kind: type[torch.optim.Optimizer]) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    matrices = [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((8, 16), (16, 8), (8, 16))
    ]
    return matrices, kind(matrices, lr=0.02, momentum=0.95, weight_decay=0.0)  # type: ignore[call-arg]


def step(matrices: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    sum((m @ m.mT).tanh().sum() + m.square().sum() for m in matrices).backward()  # type: ignore[union-attr]
    optimizer.step()


def test_steps_are_those_of_torch() -> None:
    ours, theirs = problem(Muon), problem(torch.optim.Muon)
    for _ in range(3):
        step(*ours)
        step(*theirs)
    for a, b in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-2)
    # A run may change from torch's to ours.
    resumed = problem(Muon)
    resumed[1].load_state_dict(theirs[1].state_dict())
    buffers = [state["momentum_buffer"] for state in resumed[1].state_dict()["state"].values()]
    assert len(buffers) == 3


def test_singular_values_end_near_one() -> None:
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1))
    for turned in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(turned))
        assert 0.6 < values.min() <= values.max() < 1.3
