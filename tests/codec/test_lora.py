from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from nextmem_agents.codec.lora import LoraAdapter, LoraLinear
from nextmem_agents.errors import CheckpointError
from nextmem_agents.quantization import quantize
from tests.codec import tiny

IDS = torch.tensor([[5, 9, 2, 7, 7]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write_adapter(tmp_path / "adapter", tiny.model())
    return tmp_path / "adapter"


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(IDS).logits
    return found


def test_merging_adds_the_scaled_product(folder: Path) -> None:
    model, before = tiny.model(), tiny.model()
    adapter = LoraAdapter.read(folder)
    adapter.merge(model)
    assert adapter.scale == 2
    for name, (a, b) in adapter.factors.items():
        expected = before.get_submodule(name).weight + 2 * (b @ a)
        assert torch.allclose(model.get_submodule(name).weight, expected, atol=1e-6)


def test_beside_the_weights_it_computes_what_it_does_merged(folder: Path) -> None:
    merged, beside = tiny.model(), tiny.model()
    LoraAdapter.read(folder).merge(merged)
    LoraAdapter.read(folder).attach(beside)
    assert torch.allclose(logits(merged), logits(beside), atol=1e-4)
    assert not torch.allclose(logits(merged), logits(tiny.model()), atol=1e-2)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own calls into transformers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_both_ways_give_pefts_very_bits(tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    tiny.write_adapter(tmp_path / "a", tiny.model(), **settings)
    adapter = LoraAdapter.read(tmp_path / "a")
    reference = peft.PeftModel.from_pretrained(tiny.model().to(dtype), tmp_path / "a")
    beside, merged = tiny.model().to(dtype), tiny.model().to(dtype)
    adapter.attach(beside)
    adapter.merge(merged)
    assert torch.equal(logits(beside), logits(reference))
    assert torch.equal(logits(merged), logits(reference.merge_and_unload()))


def test_two_adapters_stand_beside_the_weights_together(tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny.write_adapter(tmp_path / str(seed), tiny.model(), seed=seed)
    first, second = (LoraAdapter.read(tmp_path / str(seed)) for seed in (1, 2))
    both, merged = tiny.model(), tiny.model()
    first.attach(both)
    second.attach(both)
    first.merge(merged)
    second.merge(merged)
    assert torch.allclose(logits(both), logits(merged), atol=1e-4)


def change_settings(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


KEY = "base_model.model.model.layers.1.mlp.up_proj"

DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no configuration": (lambda f: (f / "adapter_config.json").unlink(), "cannot be read as a LoRA"),
    "half a configuration": (lambda f: truncate(f / "adapter_config.json"), "cannot be read as a LoRA"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read"),
    "truncated weights": (lambda f: truncate(f / "adapter_model.safetensors"), "cannot be read"),
    "another kind": (lambda f: change_settings(f, peft_type="IA3"), "a codec's adapters are LoRA"),
    "DoRA": (lambda f: change_settings(f, use_dora=True), "uses use_dora"),
    "a bias": (lambda f: change_settings(f, bias="all"), "uses bias"),
    "another rank": (lambda f: change_settings(f, r=8), "says rank 8"),
    "half an adapter": (lambda f: change_tensors(f, lambda t: t.pop(f"{KEY}.lora_B.weight")), "only half"),
    "no factor": (lambda f: change_tensors(f, lambda t: t.update(x=torch.ones(1))), "no LoRA factor"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_one_clear_error(folder: Path, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(CheckpointError, match=message):
        LoraAdapter.read(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 32}, r"maps \d+ to 64 values .* trained on another one"),
        ({"layers": 3}, "lacks 7 of 21 modules"),
        ({"layers": 1}, r"adapts 'model\.layers\.1\.\S+', which is no linear module"),
    ],
)
def test_an_adapter_of_another_backbone_does_not_fit(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    adapter = LoraAdapter.read(folder)
    for use in (adapter.check, adapter.merge, adapter.attach):
        with pytest.raises(CheckpointError, match=message):
            use(tiny.model(**changes))


def test_a_refused_merge_changes_nothing(folder: Path) -> None:
    model = tiny.model(layers=3)
    with pytest.raises(CheckpointError):
        LoraAdapter.read(folder).merge(model)
    assert all(map(torch.equal, model.parameters(), tiny.model(layers=3).parameters()))


def test_qwen3_8b_takes_a_rank_16_adapter_on_all_its_252_linear_modules(tmp_path: Path) -> None:
    config = Qwen3Config(
        hidden_size=4096,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=12288,
        vocab_size=151936,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_190_735_360
    factors = {
        name: (
            torch.empty(16, module.in_features, device="meta"),
            torch.empty(module.out_features, 16, device="meta"),
        )
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in tiny.TARGETS
    }
    assert len(factors) == 252
    # Per layer: q, o 4096→4096; k, v 4096→1024; gate, up 4096→12288; down 12288→4096.
    per_layer = 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288))
    assert sum(a.numel() + b.numel() for a, b in factors.values()) == 36 * per_layer == 43_646_976
    adapter = LoraAdapter(factors, scale=2.0, targets=tuple(tiny.TARGETS), source="test")
    adapter.merge(model)
    adapter.attach(model)
    assert sum(isinstance(module, LoraLinear) for module in model.modules()) == 252
    assert quantize(torch.zeros(15, 4096), "per_dimension").n_bytes == 34_816 == 15 * 4096 // 2 + 4096
