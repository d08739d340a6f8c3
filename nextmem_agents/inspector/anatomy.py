"""One chunk taken apart: its latents, the words that each stands for, and what the decoder makes of them alone."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nextmem_agents.codec.decoder import greedy_batch, teacher_forced_batch
from nextmem_agents.codec.exact import decode_payloads
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.quantization import Payload

# Values are shown as multiples of what is usual in their dimension; three times that is as dark as it gets.
SHOWN = 3.0
_MAX_STEPS = 256


def chunk_view(codec: LatentCodec, payload: Payload) -> dict[str, Any]:
    """A chunk for the page.

    Returns:
        ``pieces``: the text, token by token. ``latents``: for each, the tokens ``[begin, end)`` that it stands for by
        its position, and its norm. ``values``: base64 of int8 ``[L, D]``, ±127 being three times the usual magnitude;
        ``levels``: how many values a number can take. ``unaided``: what greedy decoding gives without repair, as parts
        that are ``same``, or ``wrong`` with what should stand there, ``right``. ``repairs``: what was kept for
        exactness. Of a chunk that is kept literally, the text only.
    """
    if payload.latents is None:
        text = (payload.literal or b"").decode("utf-8", "replace")
        return {"literal": True, "text": text}
    latents = codec.dequantize([payload.latents])
    values = latents.values[0].float().cpu()
    true = true_tokens(codec, payload)
    steps = [max(_MAX_STEPS, payload.n_tokens)]
    [alone] = greedy_batch(codec.decoder, codec.config, latents.values, latents.lengths, steps=steps)
    [predicted], [leads] = teacher_forced_batch(
        codec.decoder, codec.config, latents.values, latents.lengths, [true]
    )
    tokenizer = codec.tokenizer
    pieces = pieces_of(tokenizer, true)
    return {
        "literal": False,
        "text": "".join(pieces),
        "pieces": pieces,
        "latents": [
            {"begin": begin, "end": end, "norm": float(row.norm())}
            for row, (begin, end) in zip(values, stretches(codec, len(true), len(values)), strict=True)
        ],
        "dim": values.shape[1],
        "levels": payload.latents.levels,
        "values": base64.b64encode(_as_bytes(codec, values)).decode(),
        "unaided": differences(tokenizer, true, alone),
        "repairs": [
            {
                "position": position,
                "alone": spelled(tokenizer, predicted[position]),
                "kept": spelled(tokenizer, token),
                "wrong": leads[position] < 0,
                "lead": round(leads[position], 4),
            }
            for position, token in payload.repair
        ],
    }


def true_tokens(codec: LatentCodec, payload: Payload) -> list[int]:
    """The tokens of a chunk's text, as they were when it was written."""
    text = payload.kept_text
    if text is None:
        text = decode_payloads(codec, [payload])[0]
    return codec.tokenizer.encode([text.decode("utf-8", "replace")])[0]


def pieces_of(tokenizer: CodecTokenizer, ids: Sequence[int]) -> list[str]:
    """The characters that each token completes; joined, they are the text."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(tokenizer.to_bytes([id_])) for id_ in ids]
    if pieces:
        pieces[-1] += decoder.decode(b"", final=True)
    return pieces


def spelled(tokenizer: CodecTokenizer, id_: int) -> str:
    r"""One token by itself: its text, or its bytes (``\xcf``) where they are only a part of a character."""
    return tokenizer.to_bytes([id_]).decode("utf-8", "backslashreplace")


def stretches(codec: LatentCodec, n_tokens: int, n_latents: int) -> list[tuple[int, int]]:
    """For each latent, the tokens [begin, end) that it stands for, its place among the latents being its place in
    the text.
    """
    per_latent = codec.config.tokens_per_latent or n_tokens / n_latents
    bounds = [min(n_tokens, round(i * per_latent)) for i in range(n_latents)] + [n_tokens]
    return [*pairwise(bounds)]


def differences(tokenizer: CodecTokenizer, true: Sequence[int], alone: Sequence[int]) -> list[dict[str, Any]]:
    """The decoder's own text in parts: where it is right, and where it is not, with the text that should be there."""
    # By the characters that tokens complete: a token that holds a part of one is compared with the next.
    right, said = ([*filter(None, pieces_of(tokenizer, ids))] for ids in (true, alone))
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, right, said, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append({"same": "".join(said[c:d])})
        else:
            parts.append({"wrong": "".join(said[c:d]), "right": "".join(right[a:b])})
    return parts


def _as_bytes(codec: LatentCodec, values: Tensor) -> bytes:
    usual = values.pow(2).mean().sqrt().expand(values.shape[1]).clone()
    if codec.quantization_table is not None:
        table = codec.quantization_table.float()
        usual[: len(table)] = table
    scaled = (values / usual.clamp_min(1e-12) / SHOWN * 127).clamp(-127, 127)
    return scaled.round().to(torch.int8).numpy().tobytes()
