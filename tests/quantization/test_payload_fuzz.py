"""Nothing that can lie in a payload's place breaks the reader.

NEXTMEM_FUZZ sets how many inputs are tried (default 20,000).
"""

from __future__ import annotations

import os
import random
import tracemalloc
import zlib
from collections.abc import Callable

from nextmem_agents.errors import PayloadError
from nextmem_agents.quantization import Payload, QuantizedLatents, encode_binding, text_checksum
from nextmem_agents.quantization.latents import n_code_bytes

COUNT = int(os.environ.get("NEXTMEM_FUZZ", "20000"))
BOMBS = [zlib.compress(bytes(n), 9)[2:-4] for n in (10, 10**4, 10**6)]
BINDING = encode_binding("alice", "note", "0")
DEFLATED = 0b0001_0000
# Lengths that overflow, exceed limits, or claim what is not there.
NUMBERS = [
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80\x01",
    b"\x80\x20",
    b"\x80\x80\x04",
    b"\x80\x80\x40",
    b"\xff\xff\x3f",
]
NUMBERS += [b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\xff\xff\x01", b"\x80\x00"]


def with_latents(
    common: tuple[bytes, int, bytes, int], latents: QuantizedLatents, text: bytes, rng: random.Random
) -> list[Payload]:
    repair = tuple((p, rng.randrange(8192)) for p in range(0, 60, rng.randrange(3, 30)))
    repaired = Payload(*common, latents=latents, repair=repair, n_wrong=2, kept_text=text)
    return [Payload(*common, latents=latents), repaired]


def seeds(rng: random.Random) -> list[bytes]:
    short, long = b"Yes.", b"The train to Porto leaves at nine, and the one to Faro at ten. " * 20
    found = []
    for text in (short, long, bytes(200_000)):
        common = (b"mini", 60, text_checksum(text), len(text))
        found.append(Payload(*common, literal=text))
        for scheme, shape in (("per_latent", (7, 16)), ("per_latent", (2, 5)), ("per_dimension", (3, 8))):
            width = (shape[1] + 1) // 2
            codes = bytearray(rng.randbytes(shape[0] * width))
            if shape[1] % 2:
                codes[width - 1 :: width] = bytes(shape[0])
            n_scales = shape[1] if scheme == "per_dimension" else shape[0]
            latents = QuantizedLatents(scheme, bytes(codes), bytes(n_scales), shape)  # type: ignore[arg-type]
            found += with_latents(common, latents, text, rng)
        for levels, shape in ((3, (4, 12)), (4, (5, 9)), (8, (3, 11))):
            # Zeros are sound whatever digits are spare.
            latents = QuantizedLatents("few_levels", bytes(n_code_bytes(shape, levels)), b"", shape, levels)
            found += with_latents(common, latents, text, rng)
    return [payload.to_bytes(BINDING) for payload in found]


def mutated(body: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """One to three changes; the fields at the front, where the lengths are, get most of them."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(data), 40) if rng.random() < 0.7 else len(data))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 0x7E, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[at : at + rng.randint(1, 6)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 6))
        elif kind == 4:
            data[at : at + rng.randint(0, 3)] = rng.choice(NUMBERS)
        elif kind == 5:
            other = rng.choice(corpus)[:-8]
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            data[at:] = rng.choice(BOMBS)
        if not data:
            return b""
    return bytes(data)


def test_any_bytes_give_a_payload_or_a_payload_error(seal: Callable[[bytes, bytes], bytes]) -> None:
    rng = random.Random(20260801)
    corpus = seeds(rng)
    known = set(corpus)
    outcomes = {"read": 0, "refused by the tag": 0, "refused behind the tag": 0}
    highest = 0
    tracemalloc.start()
    try:
        for _ in range(COUNT):
            seed, kind = rng.choice(corpus), rng.random()
            if kind < 0.05:
                data = rng.choice((b"", b"NM", b"NM\x01")) + rng.randbytes(rng.randrange(200))
            elif kind < 0.10:
                data = seed[: rng.randrange(len(seed))]
            elif kind < 0.20:
                data = mutated(seed, rng, corpus)
            else:
                body = mutated(seed[:-8], rng, corpus)
                data = seal(b"NM\x01" + body[3:] if rng.random() < 0.95 else body, BINDING)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            try:
                payload = Payload.from_bytes(data, BINDING)
            except PayloadError:
                outcomes["refused by the tag" if kind < 0.20 else "refused behind the tag"] += 1
                payload = None
            highest = max(highest, tracemalloc.get_traced_memory()[1] - before)
            if payload is None:
                continue
            outcomes["read"] += 1
            if kind < 0.20:
                assert data in known, "a change went unnoticed"
            again = payload.to_bytes(BINDING)
            if (data[3] | again[3]) & DEFLATED:
                # One text has many DEFLATE streams, and a writer may leave it as it is.
                assert Payload.from_bytes(again, BINDING) == payload
            else:
                assert again == data
    finally:
        tracemalloc.stop()
    print(outcomes, f"highest allocation {highest / 2**20:.2f} MiB")  # noqa: T201
    assert highest < 8 * 2**20
    assert outcomes["read"] > COUNT / 200
    assert outcomes["refused behind the tag"] > COUNT / 2
