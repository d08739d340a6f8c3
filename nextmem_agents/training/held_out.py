"""Texts that a run never trains on, for the evaluation at its end."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from nextmem_agents.codec.latent_codec import LatentCodec

ENDING = "held_out.jsonl"
_BUCKETS = 1000


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is kept from training: by its own bytes, so that a copy of it is on the same side."""
    return zlib.crc32(text.encode("utf-8", "replace")) % _BUCKETS < share * _BUCKETS


def without_held_out(
    records: Iterable[list[str]], share: float, kept: list[str] | None = None
) -> Iterator[str]:
    """The texts of the records that are trained on; of each that is held out, the first text goes to ``kept``.

    Args:
        records: texts that belong together, such as a dialogue and its turns, the whole first.
        share: see :func:`is_held_out`, which is asked of the first.
        kept: where to, if anywhere.
    """
    for record in records:
        if not is_held_out(record[0], share):
            yield from record
        elif kept is not None:
            kept.append(record[0])


def write_held_out(path: Path, texts: Iterable[str]) -> None:
    """Write texts as JSON lines, to a file whose name ends with :data:`ENDING`."""
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def held_out_texts(corpus: Path) -> list[str]:
    """The texts of a prepared corpus that are never trained on; none if it was prepared without."""
    found = []
    for path in sorted(corpus.glob(f"*{ENDING}")):
        with path.open(encoding="utf-8") as lines:
            found += [json.loads(line)["text"] for line in lines]
    return found


def held_out_chunks(corpus: Path, codec: LatentCodec, limit: int) -> list[str]:
    """The first chunk of each of up to ``limit`` held-out texts, drawn from all of them, the same at every call."""
    texts = [text for text in held_out_texts(corpus) if text]
    random.Random(0).shuffle(texts)
    return [codec.chunk(text)[0] for text in texts[:limit]]
