"""The shipped codec at many batch sizes and text lengths, beside a plain transformers implementation of it.

    python benchmarks/codec_sweep.py [THREADS]      # writes benchmarks/codec_sweep.md and codec_sweep.json

Three works: `encode` is the latents alone; `compress` is what a remember does, the latents, their quantisation, the
repairs and a decoding that proves them; `decompress` is what a recall does, decoding with the repairs and comparing
checksums. The control (:mod:`plain`) takes one text at a time whatever the batch, so it is measured once for each
length; beside `compress` stands its encoding and one decoding, which is the least that proves a text. It knows no
repairs and checks nothing. Texts, weights and the form are those of ``benchmarks/codec.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from codec import TOKENS, texts
from plain import PlainCodec, plain_codec
from report import write_table
from timing import Duration, medians, milliseconds, once

from nextmem_agents import LatentCodec
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.quantization import Payload

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # at TOKENS tokens
LENGTHS = (8, 16, 32, 64, 128)
LENGTH_BATCHES = (1, 32)  # at each length
LONG = 2000  # tokens of one text of many chunks
ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Sample:
    """Texts of one length, in one call.

    Attributes:
        tokens: of each text.
        texts: the texts.
        ids: the token ids of all their chunks.
        payloads: their chunks' payloads, per text.
    """

    tokens: int
    texts: Sequence[str]
    ids: Sequence[list[int]]
    payloads: Sequence[Sequence[Payload]]

    def first(self, count: int) -> Sample:
        """The same with fewer texts, of one chunk each."""
        return Sample(self.tokens, self.texts[:count], self.ids[:count], self.payloads[:count])


def sample_of(codec: LatentCodec, tokens: int, count: int) -> Sample:
    """Texts of so many tokens that are kept as latents, none literally, and are given back exactly."""
    found = texts(codec, count, tokens)
    payloads = [[chunk.payload for chunk in chunks] for chunks in compress(codec, found)]
    if any(payload.latents is None for payload in chain.from_iterable(payloads)):
        raise RuntimeError(f"of the texts of {tokens} tokens some are kept literally: they take no decoding")
    if [back.text for back in decompress(codec, payloads) if back.exact] != found:
        raise RuntimeError(f"not all texts of {tokens} tokens came back")
    chunks = [chunk for text in found for chunk in codec.chunk(text)]
    return Sample(tokens, found, codec.tokenizer.encode(chunks), payloads)


def works(codec: LatentCodec, sample: Sample) -> dict[str, Callable[[], object]]:
    """What is measured of one call with these texts."""
    return {
        f"encode {sample.tokens} {len(sample.texts)}": lambda: codec.encode_ids(sample.ids),
        f"compress {sample.tokens} {len(sample.texts)}": lambda: compress(codec, sample.texts),
        f"decompress {sample.tokens} {len(sample.texts)}": lambda: decompress(codec, sample.payloads),
    }


def plain_works(control: PlainCodec, sample: Sample) -> dict[str, Callable[[], object]]:
    """The control on all chunks of these texts, one after the other."""
    values = [control.plain.encode(ids) for ids in sample.ids]

    def decode() -> None:
        for latents, ids in zip(values, sample.ids, strict=True):
            control.plain.decode(latents, len(ids))

    def encode() -> None:
        for ids in sample.ids:
            control.plain.encode(ids)

    return {f"plain encode {sample.tokens}": encode, f"plain decode {sample.tokens}": decode}


def main(threads: int | None = None) -> None:
    """Measure, and write the table."""
    if threads is not None:
        torch.set_num_threads(threads)
    codec, control = LatentCodec.load(), plain_codec()
    whole = {
        tokens: sample_of(codec, tokens, max(BATCHES if tokens == TOKENS else LENGTH_BATCHES))
        for tokens in LENGTHS
    }
    long = sample_of(codec, LONG, 1)
    measured = [
        sample.first(size)
        for tokens, sample in whole.items()
        for size in (BATCHES if tokens == TOKENS else LENGTH_BATCHES)
    ]
    measured.append(long)
    ours: dict[str, Callable[[], object]] = {}
    plain: dict[str, Callable[[], object]] = {}
    for sample in measured:
        ours |= works(codec, sample)
    for sample in whole.values():
        plain |= plain_works(control, sample.first(1))

    found = medians(plain | ours, ROUNDS)
    # Half a minute: caches yet to be filled, or a moment's disturbance, change nothing.
    found |= {name: once(work) for name, work in plain_works(control, long).items()}
    rows = [
        row(found, work, sample.tokens, len(sample.texts))
        for work in ("encode", "compress", "decompress")
        for sample in measured
    ]
    payloads = [
        payload for sample in (*whole.values(), long) for payload in chain.from_iterable(sample.payloads)
    ]
    repaired = sum(bool(payload.repair) for payload in payloads)
    write_table(
        __file__,
        "The codec at many batch sizes and lengths",
        f"Codec `{codec.config.name}`, float32, {torch.get_num_threads()} thread(s). `compress` is encoding, "
        "quantising, repairs and their proof; `decompress` is decoding with repairs and checksums; all texts came back "
        "exactly. The control: "
        "transformers, eager attention, one text at a time, the released encoding loop, `generate`; beside `compress` "
        f"stand one encoding and one decoding of it. The text of {LONG:,} tokens has {len(long.ids)} chunks. Of "
        f"all {len(payloads):,} chunks {repaired:,} needed a repair.",
        [
            "work", "tokens a text", "texts a call", "ms a text", "tokens a second", "control, ms a text",
            "times faster", "by processor time",
        ],
        rows,
    )  # fmt: skip


def row(found: dict[str, Duration], work: str, tokens: int, batch: int) -> tuple[object, ...]:
    """A line of the table."""
    encode, decode = found[f"plain encode {tokens}"], found[f"plain decode {tokens}"]
    control = {
        "encode": encode,
        "compress": Duration(encode.clock + decode.clock, encode.processor + decode.processor),
        "decompress": decode,
    }[work]
    ours = found[f"{work} {tokens} {batch}"] / batch
    return (
        work,
        tokens,
        batch,
        milliseconds(ours.clock),
        f"{tokens / ours.clock:.0f}",
        milliseconds(control.clock),
        f"{control.clock / ours.clock:.1f}",
        f"{control.processor / ours.processor:.1f}",
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
