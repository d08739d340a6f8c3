"""Two shipped codecs beside a plain transformers implementation of them, on the same weights and texts.

    python benchmarks/codec.py [THREADS]        # writes benchmarks/codec.md and codec.json

Chunks of 64 tokens of the package's own conversation and synthetic texts. The control (:mod:`plain`) runs one text at
a time with eager attention; it encodes as the released code does and decodes with ``generate``. All works are done in
turns in one process, on as many threads as the machine has cores, and each figure is the median of a few rounds.
Both sides of `remember` and `recall` use the same store, the same search and the same quantiser.
"""

from __future__ import annotations

import dataclasses
import sys
import uuid
from itertools import chain
from typing import Any

import torch
from plain import PlainCodec, plain_codec
from report import write_table
from timing import Duration, medians, milliseconds
from torch import Tensor

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.codec.exact import compress, decode_payloads
from nextmem_agents.codec.matrix import MULTIPLIES_BFLOAT16
from nextmem_agents.items import as_items
from nextmem_agents.quantization import Payload, text_checksum
from nextmem_agents.scope.decoded import decoded_texts
from nextmem_agents.scope.writing import encode_items, seal_items
from nextmem_agents.training.synthetic import synthetic_texts

TOKENS = 64
BULK = 48  # chunks of one bulk call
CODECS = [("mini", "float32"), (DEFAULT_CODEC, "float32")]
if MULTIPLIES_BFLOAT16:
    CODECS.append(("mini", "bfloat16"))
QUERY = "Where did she say that the meeting would be?"


def texts(codec: LatentCodec, count: int, tokens: int = TOKENS) -> list[str]:
    """Texts of exactly so many tokens, each cut from the running text of synthetic ones."""
    ids = list(chain.from_iterable(codec.tokenizer.encode([t for t in synthetic_texts(4000, seed=5) if t])))
    found: list[str] = []
    for begin in range(0, len(ids), tokens):
        text = codec.tokenizer.to_text(ids[begin : begin + tokens])
        if len(codec.tokenizer.encode([text])[0]) == tokens:
            found.append(text)
        if len(found) == count:
            return found
    raise RuntimeError(f"only {len(found)} texts of {tokens} tokens")


def plain_text(control: PlainCodec, latents: Tensor, steps: int) -> bytes:
    """The control's decoded bytes."""
    return control.tokenizer.to_bytes(control.plain.decode(latents, steps))


def plain_remember(control: PlainCodec, scope: Any, text: str, template: Any) -> None:
    """Encode, quantise, decode to prove it, and write the record."""
    latents = control.encode([text])
    quantized = control.quantize(latents)
    back = control.dequantize(quantized)
    proven = plain_text(control, back.values[0], TOKENS) == text.encode()
    payload = Payload(
        codec_id=control.codec_id,
        n_tokens=TOKENS,
        text_checksum=text_checksum(text.encode()),
        n_bytes=len(text.encode()),
        latents=quantized[0] if proven else None,
        literal=None if proven else text.encode(),
    )
    name = uuid.uuid4().hex
    vectors = control.index_vectors(back).numpy()
    sealed = scope._vault().seal(payload, name, 0)
    scope._store.put(scope.name, [dataclasses.replace(template, id=name, payloads=[sealed], vectors=vectors)])


def main(threads: int | None = None) -> None:
    """Measure, and write the table."""
    if threads is not None:
        torch.set_num_threads(threads)
    rows, differences = [], []
    for name, dtype in CODECS:
        measured, difference = measure(name, dtype)
        rows += measured
        differences.append(f"{difference:.1e}")
    write_table(
        __file__,
        "The codec beside plain transformers",
        f"{TOKENS}-token chunks, {BULK} chunks in bulk, {torch.get_num_threads()} thread(s). "
        "The control: transformers, the same type of weights, eager attention, one text at a "
        "time, the released encoding loop, `generate`. "
        f"Relative difference of the latents: {', '.join(differences)}.",
        ["codec", "weights", "work", "control, ms", "ours, ms", "times faster", "by processor time", "bar"],
        rows,
    )


def measure(name: str, dtype: str) -> tuple[list[tuple[str, ...]], float]:
    """Lines of the table for a codec, and the relative difference of its latents from the control's."""
    codec, control = LatentCodec.load(name, dtype=dtype), plain_codec(name, dtype)
    chunks = texts(codec, BULK)
    ids = codec.tokenizer.encode(chunks)
    latents = codec.encode(chunks)
    difference = float(
        (control.encode(chunks[:8]).values - latents.values[:8]).norm() / latents.values[:8].norm()
    )
    payloads = [compressed[0].payload for compressed in compress(codec, chunks)]
    kept = [payload for payload in payloads if payload.latents is not None]

    few = medians(
        {
            "plain encode": lambda: control.encode_ids(ids[:2]),
            "plain decode": lambda: control.plain.decode(latents.values[0], TOKENS),
            "encode": lambda: codec.encode_ids(ids),
            "decode": lambda: decode_payloads(codec, kept),
        }
    )
    with NextMem.open(":memory:", codec=codec) as ours, NextMem.open(":memory:", codec=control) as theirs:
        mine, other = ours.scope("a"), theirs.scope("a")
        mine.remember(chunks)
        for text, payload in zip(chunks, payloads, strict=True):
            # The same records, so that both search the same.
            _copy(other, codec, text, payload)
        template = record_of(other, codec, chunks[0])

        def recall() -> None:
            decoded_texts(ours._store).drop()
            mine.recall(QUERY, k=5).decode()

        def plain_recall() -> None:
            hits = other.recall(QUERY, k=5)
            for i, hit in enumerate(hits):
                plain_text(control, hit.batch.latents(i, codec), TOKENS)

        def cached() -> None:
            mine.recall(QUERY, k=5).decode()

        one = medians(
            {
                "plain remember": lambda: plain_remember(control, other, chunks[0], template),
                "remember": lambda: mine.remember(chunks[0]),
                "plain recall": plain_recall,
                "recall": recall,
                "cached": cached,
            },
            rounds=2,
        )
    rows = [
        row(name, dtype, "bulk encode, per chunk", few["plain encode"] / 2, few["encode"] / BULK, 30),
        row(name, dtype, "bulk decode, per chunk", few["plain decode"], few["decode"] / len(kept), 15),
        row(name, dtype, "one remember", one["plain remember"], one["remember"], 3),
        row(name, dtype, "recall with five decompressed hits", one["plain recall"], one["recall"], 4),
        row(name, dtype, "the same recall again", one["plain recall"], one["cached"], 50),
    ]
    return rows, difference


def row(codec: str, dtype: str, work: str, control: Duration, ours: Duration, bar: int) -> tuple[str, ...]:
    """A line of the table."""
    return (
        f"`{codec}`",
        dtype,
        work,
        milliseconds(control.clock),
        milliseconds(ours.clock),
        f"{control.clock / ours.clock:.1f}",
        f"{control.processor / ours.processor:.1f}",
        f"≥ {bar}",
    )


def record_of(scope: Any, codec: LatentCodec, text: str) -> Any:
    """What a scope would write for a text."""
    items = as_items([text], ids=None, session=None, agent=None, role=None, occurred_at=None, metadata=None)
    return seal_items(encode_items(items, codec, None), scope._vault())[0]


def _copy(scope: Any, codec: LatentCodec, text: str, payload: Payload) -> None:
    name = uuid.uuid4().hex
    record = record_of(scope, codec, text)
    sealed = scope._vault().seal(payload, name, 0)
    scope._store.put(scope.name, [dataclasses.replace(record, id=name, payloads=[sealed])])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
