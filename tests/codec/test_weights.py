from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from nextmem_agents import LatentCodec
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.fused import FusedLayers
from nextmem_agents.codec.weights import Qwen3Weights
from tests.codec import tiny


def read(folder: Path, **changes: Any) -> Qwen3Weights | None:
    described = json.loads((folder / "config.json").read_text()) | changes
    return Qwen3Weights.read(described, [folder / "model.safetensors"])


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tiny.model(tie_word_embeddings=request.param).to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


@torch.inference_mode()
def test_the_weights_alone_and_the_model_made_of_them_give_transformers_numbers(folder: Path) -> None:
    weights = read(folder)
    assert weights is not None
    assert FusedLayers.fits(weights)
    lean, made = Backbone(weights, fuse=True), Backbone(weights.as_transformers())
    loaded = Backbone(Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32))
    ids, positions = torch.tensor([[5, 6, 7, 300]]), torch.arange(4)[None]
    mask = torch.ones_like(ids)
    expected = loaded.hidden(loaded.embed(ids), mask, positions)
    # Its weights are views of larger matrices, for which some processors take other products.
    torch.testing.assert_close(made.hidden(made.embed(ids), mask, positions), expected, rtol=1e-6, atol=2e-6)
    found = lean.hidden(lean.embed(ids), mask, positions)
    assert float((found - expected).norm() / expected.norm()) < 5e-6
    assert torch.allclose(lean.logits(found[0]), loaded.logits(expected[0]), atol=1e-4)


def test_the_model_is_made_over_the_same_tensors_when_it_is_asked_for(whole: LatentCodec) -> None:
    codec = LatentCodec.load(whole.folder or "")
    table = codec.decoder._model.get_input_embeddings().weight
    assert isinstance(codec.decoder._model, Qwen3Weights)
    assert isinstance(codec.decoder.model, Qwen3ForCausalLM)
    assert codec.decoder.model.get_input_embeddings().weight.data_ptr() == table.data_ptr()


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0}},
        {"num_hidden_layers": 3},
        {"hidden_size": 128},
    ],
)
def test_what_is_uncommon_or_does_not_fit_is_left_to_transformers(
    folder: Path, changes: dict[str, Any]
) -> None:
    assert read(folder, **changes) is None


def test_a_first_encoding_imports_no_model_code() -> None:
    program = """
import sys
from nextmem_agents import LatentCodec
codec = LatentCodec.load()
print(codec.decode(codec.encode(["She moved to Lisbon."])))
print([name for name in ("transformers", "torch._dynamo", "sympy", "chromadb") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["['She moved to Lisbon.']", "[]"]
