from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.projection import project, reduced
from nextmem_agents.errors import InvalidArgument


def test_angles_survive_and_the_matrix_is_the_same_everywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(64, 4096, generator=generator), dim=-1)
    vectors[1] = F.normalize(vectors[0] + 0.5 * vectors[1], dim=-1)
    small = F.normalize(project(vectors, 1024), dim=-1)
    assert small.shape == (64, 1024)
    assert torch.allclose(small @ small.T, vectors @ vectors.T, atol=0.15)
    assert (project(torch.eye(3), 4) * 2).tolist() == [
        [1.0, 1.0, 1.0, 1.0],
        [1.0, 1.0, -1.0, -1.0],
        [-1.0, -1.0, -1.0, 1.0],
    ]


def test_only_wide_vectors_are_reduced() -> None:
    assert (reduced(1024), reduced(1025)) == (None, 1024)


def test_a_size_is_a_positive_number() -> None:
    with pytest.raises(InvalidArgument, match="index_dimensions"):
        CodecConfig(name="x", start_of_decode=1, end_of_text=0, index_dimensions=0)
