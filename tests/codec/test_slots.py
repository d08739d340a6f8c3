"""Steps in tensors of fixed shape give what the plain loops give; on a CPU, where no graph is captured."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.codec import slots as slots_module
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.slots import Slots
from tests.codec import tiny

CODEC = CodecConfig(
    "tiny",
    start_of_decode=1,
    end_of_text=0,
    tokens_per_latent=4,
    positions="aligned",
    quantization="per_latent",
)
FIXED = CodecConfig(
    "tiny", start_of_decode=1, end_of_text=0, tokens_per_latent=None, fixed_latents=5,
    positions="consecutive", quantization="per_dimension",
)  # fmt: skip


def pair(**changes: Any) -> tuple[Backbone, Backbone]:
    """The plain loops, and the same weights in slots."""
    plain, slotted = Backbone(tiny.model(**changes)), Backbone(tiny.model(**changes))
    assert plain.slots is None
    slotted.slots = Slots(slotted)
    return plain, slotted


def rows(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 448, (n,), generator=generator).tolist() for n in lengths]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("config", [CODEC, FIXED], ids=["aligned", "consecutive"])
@pytest.mark.parametrize("lengths", [[9], [1, 30, 7], [128, 3, 64, 17, 5]])
def test_latents_are_those_of_the_plain_loop(config: CodecConfig, lengths: list[int]) -> None:
    plain, slotted = pair()
    expected, expected_lengths = encode_batch(plain, config, rows(lengths))
    for _ in range(2):  # the second time in a loop that was used before
        found, found_lengths = encode_batch(slotted, config, rows(lengths))
        assert found_lengths.equal(expected_lengths)
        assert relative(found, expected) < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    n_slots=st.sampled_from([1, 2, 4]),
    repaired=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 39), st.integers(2, 447)), max_size=6),
    seed=st.integers(0, 5),
)
def test_tokens_are_those_of_the_plain_loop_however_few_slots_there_are(
    steps: list[int], n_slots: int, repaired: list[tuple[int, int, int]], seed: int
) -> None:
    plain, slotted = pair(num_key_value_heads=4)
    repairs: list[dict[int, int]] = [{} for _ in steps]
    for row, step, token in repaired:
        if row < len(steps) and step < steps[row]:
            repairs[row][step] = token
    values, lengths = encode_batch(plain, CODEC, rows(steps, seed))
    arguments = {"steps": steps, "repairs": repairs, "stop_at_end": False}
    expected = greedy_batch(plain, CODEC, values, lengths, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_module, "SLOTS", n_slots)
        assert greedy_batch(slotted, CODEC, values, lengths, **arguments) == expected
        assert greedy_batch(slotted, CODEC, values, lengths, **arguments) == expected


def test_a_text_that_ends_by_itself_is_decoded_by_the_plain_loop() -> None:
    plain, slotted = pair()
    values, lengths = encode_batch(plain, CODEC, rows([8, 12]))
    found = greedy_batch(slotted, CODEC, values, lengths, steps=[8, 12])
    assert found == greedy_batch(plain, CODEC, values, lengths, steps=[8, 12])


def test_threads_share_the_slots() -> None:
    plain, slotted = pair()
    values, lengths = encode_batch(plain, CODEC, rows([20] * 6))
    expected = greedy_batch(plain, CODEC, values, lengths, steps=[20] * 6, stop_at_end=False)
    found: dict[int, list[list[int]]] = {}

    def one(i: int) -> None:
        found[i] = greedy_batch(
            slotted, CODEC, values[i : i + 1], lengths[i : i + 1], steps=[20], stop_at_end=False
        )

    threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i][0] for i in range(6)] == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_run_too(dtype: torch.dtype) -> None:
    slotted = Backbone(tiny.model().to(dtype))
    slotted.slots = Slots(slotted)
    values, lengths = encode_batch(slotted, CODEC, rows([9, 4]))
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    found = greedy_batch(slotted, CODEC, values, lengths, steps=[9, 4], stop_at_end=False)
    assert [len(row) for row in found] == [9, 4]


def test_a_step_that_cannot_be_captured_runs_without_a_graph(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, slotted = pair()
    loop = slots_module.TokenLoop(slotted, 2, 64, 64)

    class OnAGpu:
        device = torch.device("cuda")

    def refuse() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(loop, "_capture", refuse)
    monkeypatch.setattr(loop, "_step", lambda: None)
    monkeypatch.setattr(loop, "fed", OnAGpu())
    loop.prepare()
    assert "not permitted" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_captured_step_gives_the_same() -> None:
    plain, slotted = (Backbone(tiny.model().to("cuda", torch.bfloat16)) for _ in range(2))
    assert slotted.slots is not None
    plain.slots = None
    expected, lengths = encode_batch(plain, CODEC, rows([9, 40, 3]))
    found, _ = encode_batch(slotted, CODEC, rows([9, 40, 3]))
    assert relative(found, expected) < 0.05
    arguments = {"steps": [9, 40, 3], "stop_at_end": False}
    assert greedy_batch(slotted, CODEC, expected, lengths, **arguments) == greedy_batch(
        plain, CODEC, expected, lengths, **arguments
    )


def test_few_sizes_are_kept() -> None:
    _, slotted = pair()
    assert slotted.slots is not None
    for n in (3, 70, 130):
        values, lengths = encode_batch(slotted, CODEC, rows([n]))
        [found] = greedy_batch(slotted, CODEC, values, lengths, steps=[n], stop_at_end=False)
        assert len(found) == n
    assert slotted.slots._token_loop.cache_info().currsize == slots_module._KEPT_LOOPS
