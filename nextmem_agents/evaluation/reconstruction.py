"""How well a codec alone gives texts back: free-running, through its quantiser, without repair."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextmem_agents.codec.batches import in_batches
from nextmem_agents.codec.exact import compress, decode_payloads
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.locomo import load_locomo
from nextmem_agents.evaluation.metrics import token_f1
from nextmem_agents.quantization import Payload

LENGTHS = ((1, 15), (16, 31), (32, 63), (64, 127), (120, 128), (16, 128))
"""Token lengths that are reported apart; the last is all that the bars speak of."""


@dataclass(frozen=True)
class Reconstruction:
    """One row of a reconstruction table, over n texts of at most one chunk each.

    Attributes:
        n: texts.
        tokens: mean backbone tokens per text.
        characters_per_latent: how dense the code is, comparable between tokenizers.
        f1: mean F1 over white-space separated words, case and punctuation counting.
        exact: share of texts reproduced character for character.
        fidelity: share of tokens whose argmax is right given the true prefix.
        repair_bytes: mean bytes of repair per text.
        payload_bytes: mean bytes kept per text, header, checksum and tag included.
        text_bytes: mean UTF-8 bytes per text.
        literal: share of texts kept literally instead of as latents.
    """

    n: int
    tokens: float
    characters_per_latent: float
    f1: float
    exact: float
    fidelity: float
    repair_bytes: float
    payload_bytes: float
    text_bytes: float
    literal: float


def measure(codec: LatentCodec, texts: Sequence[str]) -> Reconstruction:
    """Reconstruct texts of at most ``max_tokens`` tokens, none empty.

    The decoder runs greedily on what it has itself produced, from dequantised latents, with no repair and no end
    but the known number of tokens.

    Raises:
        DataError: there are no texts.
        TextTooLong: a text is longer than a chunk.
    """
    if not texts:
        raise DataError("there is no text to reconstruct")
    ids = codec.tokenizer.encode(texts)
    rows = codec.quantize(codec.encode_ids(ids))
    bare = [
        Payload(codec.codec_id, len(row), b"\0" * 8, len(text.encode()), latents)
        for row, text, latents in zip(ids, texts, rows, strict=True)
    ]
    decoded = in_batches(
        [len(row) for row in ids], lambda batch: decode_payloads(codec, [bare[i] for i in batch])
    )
    outputs = [data.decode("utf-8", "replace") for data in decoded]
    kept = [chunks[0].payload for chunks in compress(codec, texts)]
    latent = [payload for payload in kept if payload.latents is not None]
    n, n_tokens = len(texts), sum(len(row) for row in ids)
    latent_tokens = sum(payload.n_tokens for payload in latent)
    return Reconstruction(
        n=n,
        tokens=n_tokens / n,
        characters_per_latent=sum(map(len, texts)) / sum(row.shape[0] for row in rows),
        f1=sum(token_f1(output.split(), text.split()) for output, text in zip(outputs, texts, strict=True))
        / n,
        exact=sum(output == text for output, text in zip(outputs, texts, strict=True)) / n,
        fidelity=1 - sum(payload.n_wrong for payload in latent) / latent_tokens if latent_tokens else 0.0,
        repair_bytes=sum(_repair_bytes(payload) for payload in kept) / n,
        payload_bytes=sum(len(payload.to_bytes(b"")) for payload in kept) / n,
        text_bytes=sum(payload.n_bytes for payload in kept) / n,
        literal=sum(payload.literal is not None for payload in kept) / n,
    )


def _repair_bytes(payload: Payload) -> int:
    """What the repair section takes: the payload's size with it less that without."""
    if not payload.repair:
        return 0
    without = Payload(
        payload.codec_id, payload.n_tokens, payload.text_checksum, payload.n_bytes, payload.latents
    )  # fmt: skip
    return len(payload.to_bytes(b"")) - len(without.to_bytes(b"")) - len(payload.kept_text or b"")


def texts_of(path: Path) -> Iterator[str]:
    """Texts of a file: LoCoMo's turns, SQuAD's or HotpotQA's paragraphs, RACE's articles, or plain text.

    Formats are told apart by their structure; ``.xz`` is read directly.

    Raises:
        DataError: the file is missing or of no known structure.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".txt":
        yield from filter(None, (part.strip() for part in path.read_text(encoding="utf-8").split("\n\n")))
        return
    try:
        with lzma.open(path, "rt") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    first = data[0] if isinstance(data, list) and data else data
    if isinstance(first, dict) and "conversation" in first:
        for conversation in load_locomo(path):
            yield from (turn.text for turn in conversation.turns if turn.text)
    elif isinstance(first, dict) and "data" in first:
        for article in first["data"]:
            yield from (paragraph["context"] for paragraph in article["paragraphs"])
    elif isinstance(first, dict) and "article" in first:
        yield from (item["article"] for item in data)
    elif isinstance(first, dict) and "context" in first:
        for item in data:
            yield from ("".join(body) if isinstance(body, list) else body for _, body in item["context"])
    elif isinstance(first, dict) and "sessions" in first:
        for item in data:
            for session in item["sessions"]:
                yield from (turn["content"] for turn in session["turns"] if turn["content"])
    else:
        raise DataError(f"{path}: neither LoCoMo, LongMemEval, SQuAD, HotpotQA nor RACE; or give a .txt file")


def of_length(codec: LatentCodec, texts: Iterable[str], low: int, high: int, limit: int) -> list[str]:
    """Up to ``limit`` different texts of ``low`` to ``high`` tokens; a longer one is cut to its first chunk."""
    chosen: dict[str, None] = {}
    for text in texts:
        first = codec.chunk(text)[0]
        if len(codec.tokenizer.encode([first])[0]) > high:
            ids = codec.tokenizer.encode([first])[0][:high]
            first = codec.tokenizer.to_bytes(ids).decode("utf-8", "ignore")
        if first and low <= codec.count_tokens(first) <= high:
            chosen[first] = None
        if len(chosen) == limit:
            break
    return list(chosen)
