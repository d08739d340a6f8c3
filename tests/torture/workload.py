"""What the torture writes: memories whose every byte follows from their name, so that any loss shows.

A memory ``m{n}`` in its revision ``r`` has one text, and that text one payload, vectors and terms, the same in every
process. Nothing has to be remembered to check a store but the names that it acknowledged.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nextmem_agents.quantization import Payload, encode_binding
from nextmem_agents.quantization.payload import text_checksum
from nextmem_agents.store import NewRecord, Store

DIM = 64
SCOPE = "tortured"
OPTIONS = {"dim": DIM, "fingerprint": "torture-1", "codec_name": "deterministic"}
_WORDS = "harbour winter sail ice captain rope north lamp bread letter snow bell".split()


@dataclass(frozen=True)
class Step:
    """One call: a put of these (memory, revision) pairs, or the forgetting of these memories."""

    puts: tuple[tuple[int, int], ...] = ()
    forgets: tuple[int, ...] = ()

    def __str__(self) -> str:
        return (
            f"put {' '.join(f'{n}.{r}' for n, r in self.puts)}" if self.puts else f"forget {self.forgets[0]}"
        )

    @classmethod
    def parse(cls, line: str) -> Step:
        kind, *names = line.split()
        if kind == "forget":
            return cls(forgets=tuple(map(int, names)))
        pairs = (name.split(".") for name in names)
        return cls(puts=tuple((int(n), int(r)) for n, r in pairs))


def sentences(n: int, revision: int) -> list[str]:
    """The chunks' texts of a memory: one to three."""
    choose = random.Random(f"{n}.{revision}")
    return [
        f"m{n}x r{revision}x c{chunk}x {' '.join(choose.choices(_WORDS, k=12))}"
        for chunk in range(choose.choice((1, 1, 1, 2, 3)))
    ]


def vector_of(text: str) -> np.ndarray:
    """A direction of its own for each text: ``[DIM]`` float32."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def payload_of(n: int, chunk: int, text: str) -> bytes:
    """A payload in the product's own format, bound to its place as the product binds it."""
    data = text.encode()
    payload = Payload(b"tort", len(text.split()), text_checksum(data), len(data), literal=data)
    return payload.to_bytes(encode_binding(SCOPE, f"m{n}", str(chunk)))


def record_of(n: int, revision: int) -> NewRecord:
    """The memory as it is put."""
    texts = sentences(n, revision)
    words = " ".join(texts).split()
    return NewRecord(
        id=f"m{n}",
        payloads=[payload_of(n, chunk, text) for chunk, text in enumerate(texts)],
        vectors=np.stack([vector_of(text) for text in texts]),
        terms={word: words.count(word) for word in words},
        session=f"s{n % 50}",
        metadata={"n": n, "revision": revision},
    )


def steps(seed: int, first: int) -> Iterator[Step]:
    """Puts of one to four new memories, replacements and forgettings, without end."""
    choose = random.Random(seed)
    next_, revisions = first, {}
    while True:
        old = sorted(revisions)
        kind = choose.random()
        if old and kind < 0.1:
            gone = choose.choice(old)
            del revisions[gone]
            yield Step(forgets=(gone,))
        elif old and kind < 0.3:
            changed = choose.choice(old)
            revisions[changed] += 1
            yield Step(puts=((changed, revisions[changed]),))
        else:
            new = range(next_, next_ + choose.randint(1, 4))
            next_ = new.stop
            revisions.update(dict.fromkeys(new, 0))
            yield Step(puts=tuple((n, 0) for n in new))


def apply(store: Store, step: Step) -> None:
    """Make one call."""
    if step.puts:
        store.put(SCOPE, [record_of(n, r) for n, r in step.puts])
    else:
        store.forget(SCOPE, ids=[f"m{n}" for n in step.forgets])
