"""A chunk taken apart is the chunk: nothing is left over, and nothing is made up."""

from __future__ import annotations

import base64

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import LatentCodec, Latents
from nextmem_agents.codec.decoder import teacher_forced_batch
from nextmem_agents.codec.exact import compress
from nextmem_agents.codec.repair import Repair
from nextmem_agents.inspector.anatomy import chunk_view, differences, pieces_of, stretches
from nextmem_agents.quantization import Payload, text_checksum

TEXT = "She signed the lease at Łąkowa 3/8 in Gdańsk; her locker is 5Q-ωβ7, and the tea she likes is 玄米茶."


def roughly(codec: LatentCodec, text: str) -> Payload:
    """A payload whose latents are off, so that the decoder needs repair."""
    ids = codec.tokenizer.encode([text])
    exact = codec.encode_ids(ids)
    noise = torch.randn(exact.values.shape, generator=torch.Generator().manual_seed(0))
    [rough] = codec.quantize(Latents(exact.values + 1.2 * noise, exact.lengths, exact.fingerprint))
    read = codec.dequantize([rough])
    _, [leads] = teacher_forced_batch(codec.decoder, codec.config, read.values, read.lengths, ids)
    repair = Repair.of(ids[0], leads)
    data = text.encode()
    return Payload(
        codec.codec_id,
        len(ids[0]),
        text_checksum(data),
        len(data),
        latents=rough,
        repair=repair.tokens,
        n_wrong=repair.n_wrong,
    )


@given(st.text(st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=50)
def test_pieces_join_to_the_text(codec: LatentCodec, text: str) -> None:
    [ids] = codec.tokenizer.encode([text])
    assert "".join(pieces_of(codec.tokenizer, ids)) == codec.tokenizer.to_bytes(ids).decode()


@given(st.integers(1, 128))
def test_every_token_belongs_to_one_latent(codec: LatentCodec, n_tokens: int) -> None:
    found = stretches(codec, n_tokens, codec.config.latents_for(n_tokens))
    assert [i for begin, end in found for i in range(begin, end)] == list(range(n_tokens))


@given(st.lists(st.integers(100, 400), max_size=20), st.lists(st.integers(100, 400), max_size=20))
@settings(max_examples=50)
def test_differences_hold_both_texts(codec: LatentCodec, true: list[int], alone: list[int]) -> None:
    parts = differences(codec.tokenizer, true, alone)
    for ids, key in ((true, "right"), (alone, "wrong")):
        whole = codec.tokenizer.to_bytes(ids).decode("utf-8", "replace")
        assert "".join(part.get("same", part.get(key, "")) for part in parts) == whole


def test_a_chunk_shows_its_text_latents_and_values(codec: LatentCodec) -> None:
    [[chunk]] = compress(codec, [TEXT])
    view = chunk_view(codec, chunk.payload)
    assert "".join(view["pieces"]) == view["text"] == TEXT
    assert len(view["latents"]) == codec.config.latents_for(chunk.payload.n_tokens)
    values = np.frombuffer(base64.b64decode(view["values"]), dtype=np.int8).reshape(-1, view["dim"])
    assert values.shape == (len(view["latents"]), codec.dim)
    assert chunk.payload.latents is not None
    exact = codec.dequantize([chunk.payload.latents]).values[0].numpy()
    assert np.array_equal(np.sign(values), np.sign(np.where(np.abs(values) > 0, exact, 0)))


def test_the_decoder_alone_is_shown_with_what_it_gets_wrong(codec: LatentCodec) -> None:
    payload = roughly(codec, TEXT)
    view = chunk_view(codec, payload)
    assert view["text"] == TEXT
    assert [(repair["position"], repair["wrong"]) for repair in view["repairs"] if repair["wrong"]]
    assert len(view["repairs"]) == len(payload.repair)
    assert sum(repair["wrong"] for repair in view["repairs"]) == payload.n_wrong
    assert any("wrong" in part for part in view["unaided"])
    # The decoder leaves the text for the first time where the first repair is.
    alone = "".join(part.get("same", part.get("wrong")) for part in view["unaided"])
    first = next(repair["position"] for repair in view["repairs"] if repair["wrong"])
    assert alone.startswith("".join(view["pieces"][:first]))
    for repair in view["repairs"]:
        # A token may be a part of a character only.
        assert repair["kept"] in view["pieces"][repair["position"]] or repair["kept"].startswith("\\x")


def test_what_is_kept_literally_has_no_latents(codec: LatentCodec) -> None:
    text = b"<b>kept as it is</b>"
    payload = Payload(codec.codec_id, 5, text_checksum(text), len(text), literal=text)
    assert chunk_view(codec, payload) == {"literal": True, "text": "<b>kept as it is</b>"}
