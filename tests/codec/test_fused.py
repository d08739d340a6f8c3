from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import LatentCodec
from nextmem_agents.codec.backbone import Backbone, shared_view
from nextmem_agents.codec.cache import StaticCache
from nextmem_agents.codec.fused import FusedLayers
from nextmem_agents.codec.lora import LoraAdapter
from nextmem_agents.codec.matrix import EMULATES_BFLOAT16, MULTIPLIES_BFLOAT16
from tests.codec import tiny

TOLERANCE = 5e-6  # relative, of hidden states in float32


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def pair(**changes: Any) -> tuple[Backbone, Backbone]:
    """A model as transformers runs it, and the same weights fused."""
    return Backbone(tiny.model(**changes)), Backbone(tiny.model(**changes), fuse=True)


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    steps=st.integers(0, 5),
    last=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_prompt_and_the_steps_after_it_are_transformers_numbers(
    lengths: list[int], steps: int, last: bool, seed: int
) -> None:
    plain, fused = pair()
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 1
    x = torch.randn(len(lengths), width, 64, generator=generator)
    # Padding between the text and what comes last, as in encoding.
    mask = torch.tensor([[1] * n + [0] * (width - 1 - n) + [1] for n in lengths])
    positions = mask.cumsum(1) - 1
    caches = plain.new_cache(), fused.new_cache(width + 2)  # which two more steps fill
    states = [b.hidden(x, mask, positions, c, last=last) for b, c in zip((plain, fused), caches, strict=True)]
    seen = slice(None) if last else mask.bool()
    assert relative(states[1][seen], states[0][seen]) < TOLERANCE
    assert relative(fused.hidden(x, mask, positions)[:, -1], states[0][:, -1]) < TOLERANCE
    for step in range(steps):
        fed = torch.randn(len(lengths), 1, 64, generator=generator)
        place = positions[:, -1:] + 1 + step
        expected, found = (b.step(fed, place, c) for b, c in zip((plain, fused), caches, strict=True))
        assert relative(found, expected) < TOLERANCE
        assert torch.allclose(fused.logits(found[:, 0]), plain.logits(expected[:, 0]), atol=1e-4)


@torch.inference_mode()
def test_a_long_batch_goes_in_parts_and_gives_the_same() -> None:
    plain, fused = pair()
    x = torch.randn(40, 70, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(70)[None].expand(40, -1)
    mask = torch.ones(40, 70, dtype=torch.int64)
    caches = plain.new_cache(), fused.new_cache(71)
    expected, found = (b.hidden(x, mask, positions, c) for b, c in zip((plain, fused), caches, strict=True))
    assert relative(found, expected) < TOLERANCE
    expected, found = (
        b.step(x[:, :1], positions[:, -1:] + 1, c) for b, c in zip((plain, fused), caches, strict=True)
    )
    assert relative(found, expected) < TOLERANCE


@torch.inference_mode()
def test_rows_that_leave_do_not_change_the_others() -> None:
    _, fused = pair()
    x = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(4)[None].expand(3, -1)
    caches = [fused.new_cache(8) for _ in range(3)]
    for cache in caches:
        fused.hidden(x, torch.ones_like(positions), positions, cache)
    caches[1].keep_first(2)
    caches[2].select(torch.tensor([1, 0]))
    fed, place = x[:, :1], positions[:, -1:] + 1
    everything = fused.step(fed, place, caches[0])
    assert relative(fused.step(fed[:2], place[:2], caches[1]), everything[:2]) < TOLERANCE
    assert relative(fused.step(fed[[1, 0]], place[:2], caches[2]), everything[[1, 0]]) < TOLERANCE


@torch.inference_mode()
def test_a_side_path_is_merged_into_a_copy_and_the_model_itself_stays(tmp_path: Path) -> None:
    model = tiny.model()
    tiny.write_adapter(tmp_path / "adapter", model)
    adapted = shared_view(model)
    LoraAdapter.read(tmp_path / "adapter").attach(adapted)
    x, positions = torch.randn(2, 7, 64), torch.arange(7)[None].expand(2, -1)
    mask = torch.ones_like(positions)
    before = [Backbone(tree).hidden(x, mask, positions) for tree in (model, adapted)]
    fused = [Backbone(tree, fuse=True) for tree in (model, adapted)]
    assert all(backbone.fused for backbone in fused)
    for backbone, expected in zip(fused, before, strict=True):
        assert relative(backbone.hidden(x, mask, positions), expected) < TOLERANCE
    after = [Backbone(tree).hidden(x, mask, positions) for tree in (model, adapted)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_matrices_cost_no_second_copy_of_the_weights(dtype: torch.dtype) -> None:
    model = tiny.model().to(dtype)
    backbone = Backbone(model, fuse=True)
    assert backbone.fused
    projection = model.model.layers[0].self_attn.k_proj.weight
    matrix = FusedLayers(model).stack.layers[0].qkv
    assert projection.untyped_storage().data_ptr() == matrix.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "gelu"}, {"attention_bias": True}, {"use_sliding_window": True, "sliding_window": 4,
                                                                    "max_window_layers": 0}]
)  # fmt: skip
@torch.inference_mode()
def test_what_is_not_known_is_left_to_transformers(changes: dict[str, Any]) -> None:
    plain, other = pair(**changes)
    x, positions = torch.randn(2, 7, 64), torch.arange(7)[None].expand(2, -1)
    mask = torch.ones_like(positions)
    assert other.fused == ("attention_bias" in changes)
    caches = plain.new_cache(), other.new_cache()
    assert (
        relative(other.hidden(x, mask, positions, caches[1]), plain.hidden(x, mask, positions, caches[0]))
        < 5e-6
    )
    fed = x[:, :1], positions[:, -1:] + 1
    assert relative(other.step(*fed, caches[1]), plain.step(*fed, caches[0])) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 12])
def test_in_bfloat16_it_is_nearer_to_the_truth_than_transformers(
    rows: int, adapted: bool, tmp_path: Path
) -> None:
    models = [tiny.model(), tiny.model().bfloat16(), tiny.model().bfloat16()]
    models[0].load_state_dict(models[1].state_dict())  # the truth: the same weights, computed in float32
    if adapted:
        tiny.write_adapter(tmp_path / "adapter", models[0])
        for model in models:
            LoraAdapter.read(tmp_path / "adapter").attach(model)
    truth, plain, fused = (Backbone(model, fuse=i == 2) for i, model in enumerate(models))
    assert fused.fused
    x = torch.randn(rows, 7, 64, generator=torch.Generator().manual_seed(rows)).bfloat16()
    mask, positions = torch.ones(rows, 7, dtype=torch.int64), torch.arange(7)[None].expand(rows, -1)
    states, logits = [], []
    for backbone in (truth, plain, fused):
        given, cache = x.to(backbone.dtype), backbone.new_cache(8)
        prompt = backbone.hidden(given, mask, positions, cache)
        step = backbone.step(given[:, :1], positions[:, -1:] + 1, cache)
        assert prompt.dtype == step.dtype == backbone.dtype
        states.append(torch.cat([prompt, step], 1).float())
        logits.append(backbone.logits(step[:, 0]))
    for expected, theirs, ours in (states, logits):
        assert ours.dtype == torch.float32
        assert 0 < relative(ours, expected) < 1.1 * relative(theirs, expected) < 0.02


def test_another_dtype_is_left_to_transformers(whole: LatentCodec) -> None:
    assert whole.decoder.fused
    assert isinstance(whole.decoder.new_cache(), StaticCache)
    assert not whole.in_profile("float16/cpu").decoder.fused
    assert whole.in_profile("bfloat16/cpu").decoder.fused == (EMULATES_BFLOAT16 or MULTIPLIES_BFLOAT16)


def test_a_codec_that_is_moved_stays_fused(whole: LatentCodec) -> None:
    codec = LatentCodec.load(whole.folder or "")
    before = codec.encode(tiny.TEXTS).values
    assert codec.to("cpu").decoder.fused
    assert torch.equal(codec.encode(tiny.TEXTS).values, before)
