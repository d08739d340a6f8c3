"""Texts to payloads and back, exactly: quantise, repair, verify; decode, check, and say so.

Nothing here can lose a text: what the decoder cannot be made to give back, the payload keeps literally.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import Tensor

from nextmem_agents.codec.batches import BATCH, in_batches
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.drafting import MOST, can_draft, greedy_from_drafts
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.own_settings import disturbances, own_settings
from nextmem_agents.codec.repair import Repair
from nextmem_agents.codec.slots import WAITING
from nextmem_agents.errors import CodecMismatch, EmptyText, InvalidArgument
from nextmem_agents.quantization import Payload, QuantizedLatents, text_checksum

_log = logging.getLogger(__name__)

# Decoding is bit-stable enough for the margin alone only here; elsewhere a copy of the text is kept as well.
STABLE_PROFILE = "float32/cpu"
_TOGETHER = 256  # chunks worked on together: so many latents are held

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class CompressedChunk:
    """One chunk, ready to be stored.

    Attributes:
        payload: what is kept.
        vector: float32 [P], the index vector, of the dequantised latents.
    """

    payload: Payload
    vector: Tensor


@dataclass(frozen=True)
class DecompressedText:
    """A text made from payloads.

    Attributes:
        text: the text.
        exact: whether every chunk's checksum was right; if not, ``text`` is the decoder's best effort.
    """

    text: str
    exact: bool


def compress(
    codec: LatentCodec, texts: Sequence[str], keep_text: bool | None = None
) -> list[list[CompressedChunk]]:
    """Payloads of texts of any length, each a list of chunks in order.

    Args:
        codec: the codec.
        texts: none empty.
        keep_text: keep a compressed copy of the text beside the latents; by default only where decoding is
            not bit-stable (any profile but float32 on a CPU).

    Raises:
        EmptyText: a text is empty.
        InvalidArgument: a text is no string, or has lone surrogates.
    """
    if keep_text is None:
        keep_text = codec.profile != STABLE_PROFILE
    parts = [codec.chunk(text) for text in texts]
    for i, chunks in enumerate(parts):
        if not chunks:
            raise EmptyText(f"text {i} is empty; there is nothing to remember")
    flat = [part for chunks in parts for part in chunks]
    ids = codec.tokenizer.encode(flat)
    work = partial(_compress_rows, codec, keep_text)
    done = codec.together(
        ("compress", keep_text), work, [(row, part.encode()) for row, part in zip(ids, flat, strict=True)]
    )
    remaining = iter(done)
    return [[next(remaining) for _ in chunks] for chunks in parts]


def _compress_rows(
    codec: LatentCodec, keep_text: bool, chunks: Sequence[tuple[list[int], bytes]]
) -> list[CompressedChunk]:
    """Compressed chunks of (token ids, text) pairs."""
    done: list[CompressedChunk] = []
    for begin in range(0, len(chunks), _TOGETHER):
        part = chunks[begin : begin + _TOGETHER]
        ids, texts = [ids for ids, _ in part], [text for _, text in part]
        for keep in (keep_text, keep_text, True):
            before = disturbances()
            made = _compress_part(codec, ids, texts, keep)
            if disturbances() == before:
                break  # else another thread had products in fewer bits, which prove nothing
        done += made
    return done


def _compress_part(
    codec: LatentCodec, ids: list[list[int]], texts: list[bytes], keep_text: bool
) -> list[CompressedChunk]:
    quantized, latents, repairs = _stored(codec, ids)
    lengths = [len(row) for row in ids]
    vectors = _batched(codec, lengths, lambda rows: list(codec.index_vectors(latents[rows])))
    proven = _proven(codec, latents, ids, texts, repairs)
    chunks = []
    for i, text in enumerate(texts):
        literal = not proven[i] or repairs[i].n_bytes >= len(text)
        payload = Payload(
            codec_id=codec.codec_id,
            n_tokens=len(ids[i]),
            text_checksum=text_checksum(text),
            n_bytes=len(text),
            latents=None if literal else quantized[i],
            repair=() if literal else repairs[i].tokens,
            n_wrong=0 if literal else repairs[i].n_wrong,
            profile=codec.profile,
            literal=text if literal else None,
            kept_text=text if keep_text and not literal else None,
        )
        chunks.append(CompressedChunk(payload, vectors[i]))
    return chunks


def _stored(codec: LatentCodec, ids: list[list[int]]) -> tuple[list[QuantizedLatents], Latents, list[Repair]]:
    """What is kept of each row, as codes and as the latents that these stand for, and what it needs besides.

    Only rows that would need a repair are refined, those of all batches together. Where the cached decoder reads known
    tokens at little cost, repairs are those that it needs itself; elsewhere those that a parallel pass predicts.
    """
    found = codec.attempts(codec.encode_ids(ids), ids)
    lost = [i for i, attempt in enumerate(found) if attempt.lost]
    if lost and codec.config.refinement_steps:
        refined = codec.refine_attempts([found[i] for i in lost], [ids[i] for i in lost])
        for i, attempt in zip(lost, refined, strict=True):
            found[i] = attempt
    repairs = [Repair.of(text, attempt.leads) for text, attempt in zip(ids, found, strict=True)]
    quantized = [attempt.codes for attempt in found]
    return quantized, codec.dequantize(quantized), repairs


def _proven(
    codec: LatentCodec, latents: Latents, ids: list[list[int]], texts: list[bytes], repairs: list[Repair]
) -> list[bool]:
    """Whether the decoder gives each text with its repairs.

    Where the cached decoder gave the repairs, it follows the tokens, and these have to give the text; what a parallel
    pass has predicted is decoded now.
    """
    if codec.decoder.fused:
        found = [codec.tokenizer.to_bytes(row) for row in ids]
    else:
        lengths = [len(row) for row in ids]

        def decoded(rows: list[int]) -> list[bytes]:
            part = Latents(*_part_of(latents, rows), latents.fingerprint)
            return _decode(codec, part, [lengths[i] for i in rows], [repairs[i] for i in rows], drafted=False)

        found = _batched(codec, lengths, decoded, decodes=True)
    return [one == text for one, text in zip(found, texts, strict=True)]


def _batched(
    codec: LatentCodec, lengths: Sequence[int], work: Callable[[list[int]], list[T]], *, decodes: bool = False
) -> list[T]:
    """``work`` on batches of rows of like length; where it ``decodes`` in slots, with rows that wait for one."""
    size = WAITING if decodes and codec.decoder.slots is not None else BATCH
    return in_batches(lengths, work, codec.decoder.side_by_side, size)


def _part_of(latents: Latents, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Values and lengths of some rows, as wide as their longest."""
    lengths = latents.lengths[rows]
    return latents.values[rows, : int(lengths.max())], lengths


@own_settings()
def decompress(codec: LatentCodec, memories: Sequence[Sequence[Payload]]) -> list[DecompressedText]:
    """The texts of memories, each given as its chunks' payloads in order; all are decoded together.

    Raises:
        CodecMismatch: a payload was written by another codec.
    """
    flat = [payload for payloads in memories for payload in payloads]
    for payload in flat:
        if payload.codec_id != codec.codec_id:
            raise CodecMismatch(
                f"a payload of codec {payload.codec_id.hex()} was given to codec {codec.codec_id.hex()} "
                f"({codec.config.name!r}); use the codec that wrote it"
            )
    parts: dict[int, tuple[bytes, bool]] = {
        i: (payload.literal, True) for i, payload in enumerate(flat) if payload.literal is not None
    }
    latent = [i for i, payload in enumerate(flat) if payload.latents is not None]
    if latent:
        decoded = codec.together("decompress", partial(_decode_rows, codec), [flat[i] for i in latent])
        parts |= {i: _checked(codec, flat[i], text) for i, text in zip(latent, decoded, strict=True)}
    texts = []
    position = 0
    for payloads in memories:
        chunk_parts = [parts[position + i] for i in range(len(payloads))]
        position += len(payloads)
        joined = b"".join(data for data, _ in chunk_parts)
        texts.append(
            DecompressedText(joined.decode("utf-8", "replace"), all(exact for _, exact in chunk_parts))
        )
    return texts


def _decode_rows(codec: LatentCodec, payloads: Sequence[Payload]) -> list[bytes]:
    lengths = [payload.n_tokens for payload in payloads]
    return _batched(
        codec, lengths, lambda rows: decode_payloads(codec, [payloads[i] for i in rows]), decodes=True
    )


def _checked(codec: LatentCodec, payload: Payload, text: bytes) -> tuple[bytes, bool]:
    """The chunk's bytes and whether they are proven; each step is tried only if the one before has failed."""
    if text_checksum(text) == payload.text_checksum:
        return text, True
    if payload.kept_text is not None:
        return payload.kept_text, True
    # A near-tie may have fallen otherwise in this batch; alone and step by step is how a batch cannot matter.
    for profile in (codec.profile, payload.profile):
        try:
            again = decode_payloads(codec.in_profile(profile), [payload], drafted=False)[0]
        except InvalidArgument as error:  # the recorded device is not here
            _log.warning("a chunk could not be decoded in its own profile: %s", error)
            break
        if text_checksum(again) == payload.text_checksum:
            return again, True
    return text, False


def decode_payloads(codec: LatentCodec, payloads: Sequence[Payload], drafted: bool = True) -> list[bytes]:
    """The decoder's greedy output for latent payloads, in one batch, with their repairs put in.

    Args:
        codec: that wrote them.
        payloads: with latents.
        drafted: begin with a draft of the texts where that is faster.
    """
    latents = codec.dequantize([payload.latents for payload in payloads if payload.latents is not None])
    steps = [payload.n_tokens for payload in payloads]
    repairs = [Repair(payload.repair, payload.n_wrong) for payload in payloads]
    return _decode(codec, latents, steps, repairs, drafted)


def _decode(
    codec: LatentCodec, latents: Latents, steps: Sequence[int], repairs: Sequence[Repair], drafted: bool
) -> list[bytes]:
    forced: list[Mapping[int, int]] = [dict(repair.tokens) for repair in repairs]
    given = codec.decoder, codec.config, latents.values, latents.lengths
    drafts = codec.draft(latents) if drafted and len(steps) <= MOST and can_draft(codec.decoder) else None
    if drafts is None:
        ids = greedy_batch(*given, steps=steps, repairs=forced, stop_at_end=False)
    else:
        ids = greedy_from_drafts(*given, steps=steps, repairs=forced, drafts=drafts)
    return [codec.tokenizer.to_bytes(row) for row in ids]
