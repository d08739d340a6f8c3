"""The map shows the two directions of most variance, of every memory or of an even sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import NextMem
from nextmem_agents.inspector.projection import map_view, principal_axes


@given(st.integers(3, 40), st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_it_agrees_with_a_singular_value_decomposition(n: int, dim: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    places, variance = principal_axes(vectors)
    _, singular, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    assert variance == pytest.approx((singular**2 / (singular**2).sum())[:2].tolist(), rel=1e-3)
    assert np.abs(places).max() == pytest.approx(1)
    assert places.std(0)[0] >= places.std(0)[1] - 1e-9


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_points_are_no_error(n: int) -> None:
    places, variance = principal_axes(np.ones((n, 4), dtype=np.float32))
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    assert np.isfinite(variance).all()


def test_every_memory_is_a_point(filled: NextMem) -> None:
    view = map_view(filled, filled.scope("alice"))
    assert {point["id"] for point in view["points"]} == {"home", "ruth", "ghent", "hostile"}
    assert view["total"] == 4


def test_a_large_scope_is_sampled_evenly(filled: NextMem) -> None:
    view = map_view(filled, filled.scope("alice"), limit=2)
    ids = [memory.id for memory in filled.scope("alice").list()]
    assert [point["id"] for point in view["points"]] == ids[::2]


def test_an_empty_scope_has_no_points(filled: NextMem) -> None:
    assert map_view(filled, filled.scope("nobody")) == {"total": 0, "variance": [0.0, 0.0], "points": []}
