"""What a codec computes is the same whatever the process around it has told torch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec import exact
from nextmem_agents.codec import own_settings as module
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.codec.own_settings import own_settings
from tests.conftest import CODEC

TEXTS = [
    "Ada's flight to Lisbon leaves at 9.40 on Tuesday.",
    "The alarm code is 4711-XQ.",
    "Bruno keeps bees in Sintra.",
]
QUESTION = "What is the alarm code?"


@contextmanager
def products_in_fewer_bits() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "products in fewer bits": products_in_fewer_bits,
    "a default device": lambda: torch.device("meta"),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
}


def used(codec: LatentCodec) -> list[object]:
    """All that a codec and a memory do with a few texts."""
    payloads = [[chunk.payload for chunk in chunks] for chunks in compress(codec, TEXTS)]
    assert [(text.text, text.exact) for text in decompress(codec, payloads)] == [
        (text, True) for text in TEXTS
    ]
    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope("a")
        scope.remember(TEXTS)
        return [
            [[payload.to_bytes(b"") for payload in one] for one in payloads],
            [(hit.text, hit.score) for hit in scope.recall(QUESTION, k=2)],
            [(hit.text, hit.score) for hit in scope.recall(QUESTION, k=2, ranking="latent")],
            [scope.answer(QUESTION, mode=mode).text for mode in ("inject", "decompress")],
        ]


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_that_torch_was_told_changes_a_result(codec: LatentCodec, name: str) -> None:
    expected = used(codec)
    with SETTINGS[name]():
        assert used(codec) == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_a_codec_is_loaded_as_ever(name: str) -> None:
    with SETTINGS[name]():
        loaded = LatentCodec.load()
    assert loaded.profile == "float32/cpu"
    assert loaded.decode(loaded.encode(TEXTS[:1])) == TEXTS[:1]


async def test_in_the_worker_too(codec: LatentCodec) -> None:
    with NextMem.open(":memory:", codec=codec) as memory, products_in_fewer_bits():
        scope = memory.scope("a")
        await scope.aremember(TEXTS)
        assert sorted(item.text for item in scope.list()) == sorted(TEXTS)


def test_generation_is_the_same(codec: LatentCodec) -> None:
    from nextmem_agents.codec.generation import next_token_logits, stream

    prompt = [codec.encode(TEXTS[:1]), [codec.config.start_of_decode]]
    expected, text = next_token_logits(codec, prompt), "".join(piece.text for piece in stream(codec, prompt))
    for settings in SETTINGS.values():
        with settings():
            assert torch.equal(next_token_logits(codec, prompt), expected)
            assert "".join(piece.text for piece in stream(codec, prompt)) == text


def test_products_are_whole_while_any_thread_is_inside() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with own_settings():
            entered.set()
            leave.wait(10)

    with products_in_fewer_bits():
        thread = threading.Thread(target=other)
        with own_settings():
            thread.start()
            assert entered.wait(10)
        assert module._precision() == "ieee"
        leave.set()
        thread.join()
        assert module._precision() == "bf16"


def test_what_was_set_meanwhile_stays() -> None:
    with products_in_fewer_bits():
        with own_settings():
            torch.set_float32_matmul_precision("high")
        assert torch.get_float32_matmul_precision() == "high"
        torch.set_float32_matmul_precision("medium")


def test_before_torch_2_9(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ONEDNN", None)
    with products_in_fewer_bits():
        with own_settings():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"


def test_an_error_leaves_the_settings_as_they_were() -> None:
    with products_in_fewer_bits(), pytest.raises(ZeroDivisionError), own_settings():
        1 / 0  # noqa: B018


LOADING = {
    "inference mode": torch.inference_mode,
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "float16 by default": lambda: default_dtype(torch.float16),
    "float64 by default": lambda: default_dtype(torch.float64),
}


@pytest.mark.parametrize("setting", LOADING.values(), ids=list(LOADING))
def test_a_codec_that_was_loaded_under_a_setting_is_the_same(codec: LatentCodec, setting: Any) -> None:
    with setting():
        loaded = LatentCodec.load(CODEC)
        before = torch.get_default_dtype()
    assert torch.get_default_dtype() == torch.float32 or before != torch.float32
    hard = ["zq7-Xp0 kkq;; 9f3a77e1 \u2603\u2603 vw", *TEXTS]  # the first has to be refined
    assert [c.payload for [c] in compress(loaded, hard)] == [c.payload for [c] in compress(codec, hard)]
    assert used(loaded) == used(codec)


def test_loading_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    LatentCodec.load(CODEC)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("times", [1, 5])
def test_what_another_thread_sets_while_a_text_is_proven_does_not_count(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    expected = compress(codec, TEXTS)
    left = [times]
    stored = exact._stored

    def disturbed(*given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            torch.set_float32_matmul_precision("medium")  # as another thread may
        return stored(*given)

    monkeypatch.setattr(exact, "_stored", disturbed)
    try:
        found = compress(codec, TEXTS)
        assert torch.get_float32_matmul_precision() == "medium"  # it is theirs to set
    finally:
        torch.set_float32_matmul_precision("highest")
    if times == 1:
        assert [c.payload for [c] in found] == [c.payload for [c] in expected]
    else:  # never undisturbed: the text itself is kept beside
        assert [c.payload.kept_text for [c] in found] == [text.encode() for text in TEXTS]


def test_decoding_anew_what_fails_its_checksum_has_own_settings_too(codec: LatentCodec) -> None:
    [[chunk]] = compress(codec, TEXTS[:1])
    wrong = replace(chunk.payload, text_checksum=bytes(len(chunk.payload.text_checksum)))
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        [found] = decompress(codec, [[wrong]])
    assert (found.text, found.exact) == (TEXTS[0], False)


def test_a_forked_child_has_the_callers_precision() -> None:
    products = module._WholeProducts()
    torch.set_float32_matmul_precision("medium")
    try:
        products.__enter__()
        products._lock.acquire()  # as another thread may have at that moment
        products.begin_anew()
        assert torch.get_float32_matmul_precision() == "medium"
        with products:
            assert module._precision() in module._WHOLE
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
