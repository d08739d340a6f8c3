"""The first promise: what is recalled is what was stored, character for character."""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec import decoder, refinement
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.decoder import cached_leads
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.codec.repair import MARGIN
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
from nextmem_agents.quantization import Payload
from nextmem_agents.training.synthetic import synthetic_texts

# NEXTMEM_TEXTS=5000 pytest --timeout 6000 tests/test_exact_recall.py is the long run.
COUNT = int(os.environ.get("NEXTMEM_TEXTS", "80"))

CODE = '''def greet(name: str) -> str:
\t"""Say hello."""
    return f"Hello, {name}!"  # {{braces}} and %s

'''
SPECIAL = [
    " ", "   ", "\n", "\t \n  ", "\r\n\r", "a", ".", "\x00", "\x00\x01\x1f\x7f\x85", "\u200b\u200d\ufeff\u202e",
    "e\u0301a\u0308o\u0327", "Z\u0351\u036b\u0343a\u0321l\u0353g\u031bo\u0349", "ﬁ Å Å ① ㎏ ｱ", "👩‍👩‍👧‍👦 🏳️‍🌈 🇵🇹 👍🏽",
    "漢字かな交じり文。句読点、カタカナ。", "안녕하세요 여러분", "مرحبا بالعالم", "שלום עולם",
    "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "<|end_of_text|><|start_of_decode|><|pad|>", "<|im_start|>system\nObey.<|im_end|>", "{template} {{x}} %d $HOME",
    "C:\\path\\file.txt", "https://example.org/a?b=c&d=%20#frag", "0" * 300, "ab" * 200, "\n" * 150, "🎉" * 90,
    "\U0010ffff\U000e0001\ufffd\uffff", CODE, CODE * 12,
]  # fmt: skip


def turns() -> list[str]:
    return [turn.text for turn in load_locomo(default_conversation())[0].turns]


def mixed_texts(n: int) -> list[str]:
    """Turns, paragraphs, code, emoji, scripts, control and combining characters, blanks, and long texts."""
    rng = random.Random(7)
    said = turns()
    paragraphs = [" ".join(rng.sample(said, rng.randint(3, 8))) for _ in range(60)]
    long = [(" ".join(rng.choices(said, k=80)))[:5000], "".join(rng.choices(SPECIAL, k=400))[:5000]]
    made = list(synthetic_texts(n, seed=11))
    # Any assigned characters at all, surrogates excepted.
    assigned = [chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    noise = ["".join(rng.choices(assigned, k=rng.randint(1, 60))) for _ in range(60)]
    texts = [*SPECIAL, *said, *paragraphs, *long, *noise, *(text for text in made if text)]
    return texts[:n]


def test_500_mixed_texts_come_back_exactly_also_after_reopening(codec: LatentCodec, tmp_path: Path) -> None:
    texts = mixed_texts(500)
    assert len(texts) == 500
    assert max(map(len, texts)) == 5000
    with NextMem.open(tmp_path, codec=codec) as memory:
        ids = memory.scope("a").remember(texts)
        kept = memory.scope("a").get(ids)
        assert [m.text for m in kept] == texts
        assert all(m.exact for m in kept)
    with NextMem.open(tmp_path, codec=codec) as memory:
        kept = memory.scope("a").get(ids)
        assert [m.text for m in kept] == texts
        assert all(m.exact for m in kept)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_any_batch_size_and_thread_count_gives_the_same_text(
    written: tuple[NextMem, list[str], list[str]], size: int, threads: int
) -> None:
    memory, ids, texts = written
    if threads > 1 and COUNT < 1000:
        ids, texts = ids[:20], texts[:20]  # on a busy machine two threads wait for each other at every step
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        read = [m for i in range(0, len(ids), size) for m in memory.scope("a").get(ids[i : i + size])]
        assert [m.text for m in read] == texts
        assert all(m.exact for m in read)
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def written(codec: LatentCodec) -> Iterator[tuple[NextMem, list[str], list[str]]]:
    """Texts written in one batch."""
    texts = mixed_texts(COUNT)
    with NextMem.open(":memory:", codec=codec) as memory:
        yield memory, memory.scope("a").remember(texts), texts


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6))
def test_any_text_at_all_comes_back(codec: LatentCodec, texts: list[str]) -> None:
    payloads = [[Payload.from_bytes(c.payload.to_bytes(b""), b"") for c in m] for m in compress(codec, texts)]
    assert [(t.text, t.exact) for t in decompress(codec, payloads)] == [(text, True) for text in texts]


def test_english_is_kept_as_latents(codec: LatentCodec) -> None:
    chunks = [chunk for memory in compress(codec, turns()) for chunk in memory]
    literal = sum(chunk.payload.literal is not None for chunk in chunks)
    assert literal / len(chunks) <= 0.02


def test_a_wrong_decoder_is_caught_and_never_silent(
    codec: LatentCodec, memory: NextMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = memory.scope("a").remember("The code is 4711.")
    for decode in ("greedy_batch", "greedy_from_drafts"):
        monkeypatch.setattr(
            f"nextmem_agents.codec.exact.{decode}", lambda *args, steps, **kwargs: [[5] * n for n in steps]
        )
    kept = memory.scope("a").get(note)
    assert kept.text != "The code is 4711."
    assert kept.exact is False


def test_what_proves_a_text_and_what_decodes_it_differ_by_little_of_the_margin(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = codec.tokenizer.encode([part for text in mixed_texts(COUNT)[::4] for part in codec.chunk(text)])
    latents = codec.dequantize(codec.quantize(codec.encode_ids(ids)))
    given = codec.decoder, codec.config, latents.values, latents.lengths, ids
    proof = torch.tensor([lead for row in cached_leads(*given) for lead in row])
    monkeypatch.setattr(decoder, "BLOCK", 1)
    steps = torch.tensor([lead for row in cached_leads(*given) for lead in row])
    assert (proof - steps).abs().max() < MARGIN / 20


def test_what_the_decoder_cannot_give_back_is_kept_literally(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The code is 4711."
    assert compress(codec, [text])[0][0].payload.literal is None
    with monkeypatch.context() as patched:
        # Every token would have to be repaired, which costs more than the text.
        patched.setattr(refinement, "known_leads", lambda *args: [[-1.0] * len(row) for row in args[4]])
        assert compress(codec, [text])[0][0].payload.literal == text.encode()
    # A decoder whose steps are not asked at once is asked to decode, and what it gives back decides.
    monkeypatch.setattr(Backbone, "fused", property(lambda _: False))
    assert compress(codec, [text])[0][0].payload.literal is None
    monkeypatch.setattr(
        "nextmem_agents.codec.exact.greedy_batch", lambda *args, steps, **kwargs: [[5] * n for n in steps]
    )
    assert compress(codec, [text])[0][0].payload.literal == text.encode()


def test_a_kept_text_is_the_last_resort(codec: LatentCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = compress(codec, ["The code is 4711."], keep_text=True)[0][0].payload
    assert payload.kept_text == b"The code is 4711."
    monkeypatch.setattr(
        "nextmem_agents.codec.exact.greedy_batch", lambda *args, steps, **kwargs: [[5] * n for n in steps]
    )
    assert decompress(codec, [[payload]])[0].exact


def test_what_one_profile_wrote_another_reads(codec: LatentCodec, tmp_path: Path) -> None:
    texts = mixed_texts(COUNT)
    other = codec.in_profile("bfloat16/cpu")
    assert (codec.profile, other.profile) == ("float32/cpu", "bfloat16/cpu")
    for writer, reader in ((codec, other), (other, codec)):
        folder = tmp_path / writer.profile.partition("/")[0]
        with NextMem.open(folder, codec=writer) as memory:
            ids = memory.scope("a").remember(texts)
        with NextMem.open(folder, codec=reader) as memory:
            kept = memory.scope("a").get(ids)
            assert [m.text for m in kept] == texts
            assert all(m.exact for m in kept)


def test_threads_give_the_same_as_one_after_the_other(codec: LatentCodec, memory: NextMem) -> None:
    texts = mixed_texts(70)[30:]
    scopes = [memory.scope(f"user {i}") for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda scope: scope.remember(texts), scopes))
        read = list(pool.map(lambda scope, names: [m.text for m in scope.get(names)], scopes, ids))
    assert read == [texts] * 4
    payloads = [[c.payload.latents for chunks in compress(codec, texts) for c in chunks]]
    with ThreadPoolExecutor(2) as pool:
        again = list(
            pool.map(lambda _: [c.payload.latents for x in compress(codec, texts) for c in x], range(2))
        )
    assert again == payloads * 2
