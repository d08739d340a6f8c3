"""A scope's memories as points in a plane: the two directions in which their index vectors differ most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextmem_agents.errors import DamagedRecord
from nextmem_agents.memory import NextMem
from nextmem_agents.quantization import QuantizedLatents
from nextmem_agents.recall.hits import Memory
from nextmem_agents.scope import Scope

MAX_POINTS = 2000


def map_view(memory: NextMem, scope: Scope, limit: int = MAX_POINTS) -> dict[str, Any]:
    """Points of a scope's memories, every n-th of them where there are more than ``limit``.

    Returns:
        ``points``: each with id, session, role, ``x`` and ``y`` in -1..1. ``variance``: the share of all variance that
        each direction shows. ``total``: how many memories the scope holds.
    """
    total = scope.count()
    memories, vectors = _vectors(memory, scope.sample(limit))
    places, variance = principal_axes(vectors)
    return {
        "total": total,
        "variance": variance,
        "points": [
            {
                "id": item.id,
                "session": item.session,
                "role": item.role,
                "x": round(x, 4),
                "y": round(y, 4),
            }
            for item, (x, y) in zip(memories, places.tolist(), strict=True)
        ],
    }


def _vectors(memory: NextMem, memories: Sequence[Memory]) -> tuple[list[Memory], npt.NDArray[np.float32]]:
    """Those of the memories that have latents, and the mean of each one's index vectors, [n, P]."""
    kept: list[Memory] = []
    rows: list[QuantizedLatents] = []
    owners: list[int] = []
    for item in memories:
        try:
            payloads = item.batch.payloads(item.index)
        except DamagedRecord:
            continue
        latents = [p.latents for p in payloads if p.latents is not None]
        if latents:
            owners += [len(kept)] * len(latents)
            rows += latents
            kept.append(item)
    size = memory.codec.index_size
    if not rows:
        return [], np.zeros((0, size), dtype=np.float32)
    of_chunks = torch.cat(
        [
            memory.codec.index_vectors(memory.codec.dequantize(rows[i : i + 256]))
            for i in range(0, len(rows), 256)
        ]
    )
    sums = np.zeros((len(kept), size), dtype=np.float32)
    np.add.at(sums, owners, of_chunks.detach().numpy())
    return kept, sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def principal_axes(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], list[float]]:
    """The vectors ``[n, P]`` on their first two principal axes, ``[n, 2]`` in -1..1, and the variance that each shows.

    An axis' sign is that which makes its largest loading positive, so that the same memories give the same picture.
    """
    n = len(vectors)
    if n == 0:
        return np.zeros((0, 2)), [0.0, 0.0]
    centred = vectors.astype(np.float64) - vectors.mean(0)
    spread, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :2]
    first = first * np.sign(first[np.abs(first).argmax(0), np.arange(first.shape[1])])
    places = centred @ first
    # The axis of most variance fills the picture; both have the same scale, so that distances mean something.
    places = places / max(float(np.abs(places).max()), 1e-12)
    whole = max(float(spread.sum()), 1e-12)
    return places, [float(max(value, 0.0)) / whole for value in spread[::-1][:2]]
