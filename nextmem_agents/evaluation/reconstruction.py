"""How well a codec alone gives texts back: free-running, with and without its quantiser, without repair."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nextmem_agents.codec.batches import in_batches
from nextmem_agents.codec.decoder import greedy_batch, teacher_forced_batch
from nextmem_agents.codec.exact import compress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.evaluation.metrics import rouge_l, token_f1
from nextmem_agents.quantization import Payload, QuantizedLatents


@dataclass(frozen=True)
class Scores:
    """How much of texts comes back from latents; means over texts, 0..1, higher is better.

    Attributes:
        f1: F1 over white-space separated words, case and punctuation counting.
        rouge_l: longest common subsequence of the same words, as F1.
        exact: share of texts reproduced character for character.
        fidelity: share of tokens (of all texts) whose argmax is right given the true prefix.
    """

    f1: float
    rouge_l: float
    exact: float
    fidelity: float


@dataclass(frozen=True)
class Size:
    """What is kept for texts; means per text, in bytes.

    Attributes:
        repair_bytes: the repair section, near-ties included.
        payload_bytes: all that is kept: header, repair, latents (or the literal text), checksum and tag.
        payload_to_text: payload bytes over the text's UTF-8 bytes.
        literal: share of texts kept literally, because their repair would cost more than they do.
    """

    repair_bytes: float
    payload_bytes: float
    payload_to_text: float
    literal: float


@dataclass(frozen=True)
class Reconstruction:
    """One measurement over n texts of at most one chunk each.

    Attributes:
        n: texts.
        tokens: mean backbone tokens per text.
        text_bytes: mean UTF-8 bytes per text.
        characters_per_latent: how dense the code is, comparable between tokenizers.
        latent_bytes: mean bytes of the quantised latents per text, scales included.
        quantised: from the latents as they are stored; refined before that, if the codec does so.
        unquantised: from the latents as the encoder gives them.
        size: what a store keeps; None where noise was added, since what is kept has none.
    """

    n: int
    tokens: float
    text_bytes: float
    characters_per_latent: float
    latent_bytes: float
    quantised: Scores
    unquantised: Scores
    size: Size | None


def measure(codec: LatentCodec, texts: Sequence[str], noise: float = 0.0, seed: int = 0) -> Reconstruction:
    """Reconstruct texts of at most ``max_tokens`` tokens, none empty.

    The decoder runs greedily on what it has itself produced, with no repair and no end but the known number of
    tokens.

    Args:
        codec: the codec.
        texts: at least one.
        noise: σ of Gaussian noise on what is decoded, in units of each text's own RMS over its latents.
        seed: of the noise.

    Raises:
        DataError: there are no texts.
        TextTooLong: a text is longer than a chunk.
        InvalidArgument: the noise is negative.
    """
    if not texts:
        raise DataError("there is no text to reconstruct")
    if not 0 <= noise < float("inf"):
        raise InvalidArgument(f"noise must be a number from 0, not {noise}")
    ids = codec.tokenizer.encode(texts)
    latents = codec.encode_ids(ids)
    payloads = [chunks[0].payload for chunks in compress(codec, texts)]
    rows = _stored(codec, latents, ids, payloads)
    n = len(texts)
    return Reconstruction(
        n=n,
        tokens=sum(map(len, ids)) / n,
        text_bytes=sum(len(text.encode()) for text in texts) / n,
        characters_per_latent=sum(map(len, texts)) / int(latents.lengths.sum()),
        latent_bytes=sum(row.n_bytes for row in rows) / n,
        quantised=_scores(codec, texts, ids, _disturbed(codec.dequantize(rows), noise, seed)),
        unquantised=_scores(codec, texts, ids, _disturbed(latents, noise, seed)),
        size=None if noise else _size(payloads),
    )


def _stored(
    codec: LatentCodec, latents: Latents, ids: Sequence[Sequence[int]], payloads: Sequence[Payload]
) -> list[QuantizedLatents]:
    """The latents that are kept, and for a text that is kept literally those that would have been."""
    literal = [i for i, payload in enumerate(payloads) if payload.latents is None]
    chosen = Latents(latents.values[literal], latents.lengths[literal], latents.fingerprint)
    others = iter(codec.quantize(codec.refine(chosen, [ids[i] for i in literal])) if literal else ())
    return [next(others) if payload.latents is None else payload.latents for payload in payloads]


def _scores(
    codec: LatentCodec, texts: Sequence[str], ids: Sequence[Sequence[int]], latents: Latents
) -> Scores:
    lengths = latents.lengths.tolist()

    def work(rows: list[int]) -> list[tuple[list[int], int]]:
        values, chosen = latents.values[rows, : max(lengths[i] for i in rows)], [ids[i] for i in rows]
        steps = [len(row) for row in chosen]
        own = latents.lengths[rows]
        greedy = greedy_batch(codec.decoder, codec.config, values, own, steps=steps, stop_at_end=False)
        forced, _ = teacher_forced_batch(codec.decoder, codec.config, values, own, chosen)
        right = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(forced, chosen, strict=True)]
        return list(zip(greedy, right, strict=True))

    done = in_batches([len(row) for row in ids], work, codec.decoder.side_by_side)
    outputs = [codec.tokenizer.to_text(row) for row, _ in done]
    pairs = [(output.split(), text.split()) for output, text in zip(outputs, texts, strict=True)]
    n = len(texts)
    return Scores(
        f1=sum(token_f1(output, text) for output, text in pairs) / n,
        rouge_l=sum(rouge_l(output, text) for output, text in pairs) / n,
        exact=sum(output == text for output, text in zip(outputs, texts, strict=True)) / n,
        fidelity=sum(right for _, right in done) / sum(map(len, ids)),
    )


def _disturbed(latents: Latents, noise: float, seed: int) -> Latents:
    if not noise:
        return latents
    # Drawn on the CPU, so that every device measures the same.
    drawn = torch.randn(latents.values.shape, generator=torch.Generator().manual_seed(seed))
    values = latents.values
    count = latents.lengths * values.shape[-1]
    rms = (values.square().sum((1, 2)) / count).sqrt()[:, None, None]
    return Latents(values + noise * rms * drawn.to(values.device), latents.lengths, latents.fingerprint)


def _size(kept: Sequence[Payload]) -> Size:
    n, total = len(kept), sum(len(payload.to_bytes(b"")) for payload in kept)
    return Size(
        repair_bytes=sum(_repair_bytes(payload) for payload in kept) / n,
        payload_bytes=total / n,
        payload_to_text=total / sum(payload.n_bytes for payload in kept),
        literal=sum(payload.literal is not None for payload in kept) / n,
    )


def _repair_bytes(payload: Payload) -> int:
    """What the repair section takes: the payload's size with it less that without."""
    if not payload.repair:
        return 0
    plain = dataclasses.replace(payload, kept_text=None)
    without = dataclasses.replace(plain, repair=(), n_wrong=0)
    return len(plain.to_bytes(b"")) - len(without.to_bytes(b""))
