from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoConfig

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.projection import project, reduced
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.scope.searching import Ranking

TOWNS = ("Faro", "Lisbon", "Evora", "Porto", "Braga")


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


@pytest.mark.parametrize("ranking", ["latent", "hybrid"])
def test_what_projected_vectors_propose_is_compared_whole(tmp_path: Path, ranking: Ranking) -> None:
    # Mini without its index head, projected to 16 dimensions; its memories have latents, not only literal text.
    folder = checkpoint.find("mini")
    config = dataclasses.replace(CodecConfig.load(folder), index_dimensions=16, fingerprint=None)
    backbone = AutoConfig.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    checkpoint.write(tmp_path, config, backbone, weights, (folder / "tokenizer.json").read_text())
    codec = LatentCodec.load(tmp_path)
    assert codec.projects
    assert codec.index_vectors(codec.encode(["a"])).shape == (1, 16)
    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope("alice")
        scope.remember([f"Ann planted {n} apple trees in {town}." for n, town in enumerate(TOWNS)])
        question = f"Who planted trees in {TOWNS[2]}?"
        for hit in scope.recall(question, k=len(TOWNS), ranking=ranking):
            whole = codec.pooled_similarity(codec.encode([question]), hit.latents(codec)).item()
            parts = {part.name: part.value for part in hit.explain().parts}
            assert parts["latent"] == pytest.approx(max(0.0, whole), abs=1e-4)
