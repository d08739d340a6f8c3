from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from nextmem_agents import LatentCodec
from nextmem_agents.codec import exact
from nextmem_agents.codec.tokens import CodecTokenizer, with_added_tokens
from nextmem_agents.errors import CheckpointError, InvalidArgument
from tests.codec import tiny

TOKENIZER = CodecTokenizer.parse(tiny.tokenizer_json())
MARKED = "A <|im_end|> and a <think> here"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_every_text_comes_back_from_its_tokens_up_to_normalisation(text: str) -> None:
    row = TOKENIZER.encode([text])[0]
    assert TOKENIZER.to_bytes(row) == unicodedata.normalize("NFC", text).encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*tiny.CONTROL, "<think>", "</think>", " ", "x", "é"])).map("".join))
def test_special_tokens_in_a_text_stay_text(text: str) -> None:
    row = TOKENIZER.encode([text])[0]
    assert not {TOKENIZER.control(token) for token in (*tiny.CONTROL, "<think>", "</think>")} & set(row)
    assert TOKENIZER.to_bytes(row) == text.encode()


def test_special_tokens_are_parsed_if_asked_for_and_only_then() -> None:
    end, think = TOKENIZER.control("<|im_end|>"), TOKENIZER.control("<think>")
    plain = TOKENIZER.encode([MARKED])
    parsed = TOKENIZER.encode([MARKED], parse_special_tokens=True)[0]
    assert parsed.count(end) == 1
    assert parsed.count(think) == 1
    assert TOKENIZER.encode([MARKED]) == plain


def test_decoding_drops_special_tokens_and_keeps_plain_added_ones() -> None:
    row = TOKENIZER.encode([MARKED], parse_special_tokens=True)[0]
    assert TOKENIZER.to_bytes(row) == b"A  and a <think> here"
    assert TOKENIZER.to_bytes([10**6]) == b""


def test_the_callers_tokenizer_is_left_as_it_was() -> None:
    source = Tokenizer.from_str(tiny.tokenizer_json())
    before = source.to_str()
    CodecTokenizer(source).encode([MARKED], parse_special_tokens=True)
    assert source.to_str() == before
    assert not source.encode_special_tokens


def test_texts_that_tokens_cannot_give_back_are_kept_literally(adapted: LatentCodec) -> None:
    decomposed = unicodedata.normalize("NFD", "Café résumé naïve")
    assert adapted.tokenizer.to_bytes(adapted.tokenizer.encode([decomposed])[0]) != decomposed.encode()
    chunks = exact.compress(adapted, [decomposed])
    assert [chunk.payload.literal for chunk in chunks[0]] == [decomposed.encode()]
    (back,) = exact.decompress(adapted, [[chunk.payload for chunk in chunks[0]]])
    assert back == exact.DecompressedText(decomposed, True)


@pytest.mark.parametrize("text", ["a\ud800b", 7, None, b"bytes"])
def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(InvalidArgument):
        TOKENIZER.encode([text])  # type: ignore[list-item]


def test_added_tokens_follow_the_last_one_and_known_ones_keep_their_ids() -> None:
    last = Tokenizer.from_str(tiny.tokenizer_json()).get_vocab_size() - 1
    twice = with_added_tokens(with_added_tokens(tiny.tokenizer_json(), ["<a>", "<b>"]), ["<b>", "<c>"])
    tokenizer = CodecTokenizer.parse(twice)
    assert [tokenizer.control(token) for token in ("<a>", "<b>", "<c>")] == [last + 1, last + 2, last + 3]


def test_unusable_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        CodecTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        CodecTokenizer.load(tmp_path)
    words = Tokenizer(models.WordLevel({"▁word": 0}, unk_token="▁word"))  # noqa: S106 - no password
    with pytest.raises(CheckpointError, match="not byte-level"):
        CodecTokenizer(words)
    with pytest.raises(CheckpointError, match="no token '<nothing>'"):
        TOKENIZER.control("<nothing>")
