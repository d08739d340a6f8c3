"""The layers as TorchScript and as Python."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from nextmem_agents import LatentCodec
from nextmem_agents.codec import layers
from nextmem_agents.codec.layers import run_layers, scripted

HEADS, KEY_HEADS, WIDTH, DIM, MLP = 4, 2, 8, 24, 40


def given(
    dtype: torch.dtype, biased: bool, last: bool, columns: Tensor | None, cached: bool
) -> tuple[object, ...]:
    """Arguments for two layers and rows of three positions, the same at each call."""
    draw = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    beside = (HEADS + 2 * KEY_HEADS) * WIDTH
    for _ in range(2):
        matrices = [random(*s) for s in ((DIM, beside), (HEADS * WIDTH, DIM), (DIM, 2 * MLP), (MLP, DIM))]
        qkv, out, gate_up, down = (each.to(dtype) for each in matrices)
        weights += [random(DIM), qkv, random(HEADS + KEY_HEADS, WIDTH), out, random(DIM), gate_up, down]
        biases += [random(beside), random(DIM)] if biased else [None, None]
    held = [random(2, 2, KEY_HEADS, 9, WIDTH) for _ in range(2)] if cached else []
    end = 9 if columns is not None else 5 if cached else 0
    cos, sin = random(2, 3, 1, WIDTH), random(2, 3, 1, WIDTH)
    return (
        random(2, 3, DIM), cos, sin, None, True, last, held, 2, columns, end,
        weights, biases, torch.tensor(1e-6), torch.empty(0), HEADS,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("place", ["none", "behind", "columns"])
def test_torchscript_computes_what_python_does(
    dtype: torch.dtype, biased: bool, last: bool, place: str
) -> None:
    columns = torch.tensor([[0, 1, 2], [4, 5, 6]]) if place == "columns" else None
    ours, plain = (given(dtype, biased, last, columns, place != "none") for _ in range(2))
    found, expected = scripted()(*ours), run_layers(*plain)  # type: ignore[arg-type]
    assert found.shape == (2, 1 if last else 3, DIM)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for one, other in zip(ours[6], plain[6], strict=True):  # type: ignore[call-overload]
        assert torch.equal(one, other)
    before = given(dtype, biased, last, columns, place != "none")[6]
    for held, former in zip(ours[6], before, strict=True):  # type: ignore[call-overload]
        assert not torch.equal(held, former)


def test_torchscript_carries_gradients() -> None:
    gradients = []
    for run in (scripted(), run_layers):
        arguments = given(torch.float32, False, False, None, False)
        x = arguments[0].requires_grad_()  # type: ignore[attr-defined]
        run(x, *arguments[1:]).square().sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    assert float(gradients[0].norm()) > 0


def test_a_torch_without_torchscript_runs_the_same_as_python(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Ann moved to Porto.", "The harbour master kept two ledgers."]
    latents = codec.encode(texts)
    monkeypatch.delattr(torch.jit, "script")
    layers._compiled.cache_clear()
    try:
        assert scripted() is run_layers
        plain = LatentCodec.load()
        torch.testing.assert_close(plain.encode(texts).values, latents.values)
        assert plain.decode(latents) == codec.decode(latents)
    finally:
        layers._compiled.cache_clear()


def test_threads_that_come_first_at_once_compile_it_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    layers._compiled.cache_clear()
    expected = run_layers(*given(torch.float32, False, False, None, False))  # type: ignore[arg-type]
    together, found = threading.Barrier(4), []

    def run() -> None:
        together.wait(30)
        found.append(layers.scripted()(*given(torch.float32, False, False, None, False)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(each, expected) for each in found)
    assert not [warning for warning in recwarn if "jit" in str(warning.message)]


def test_where_torchscript_fails_the_layers_run_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: object) -> None:
        raise OSError("Can't get source for <function run_layers>")

    monkeypatch.setattr(torch.jit, "script", failing)
    assert layers._compiled.__wrapped__() is layers.run_layers
