from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents.codec.chunking import chunk_text
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import TextTooLong
from tests.codec import tiny

TOKENIZER = CodecTokenizer.parse(tiny.tokenizer_json())

# No lone surrogates; combining marks and Hangul jamo on purpose: Qwen's tokenizer composes them.
CHARACTERS = st.characters(codec="utf-8") | st.sampled_from(
    "e\u0301n\u0303\u1112\u1161\u11ab🎉👩\u200d🔬 .\n"
)
PIECES = st.text(CHARACTERS, max_size=80) | st.sampled_from(tiny.TEXTS)
LONG_TEXTS = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(LONG_TEXTS, st.integers(16, 40))
def test_the_parts_join_to_the_text_and_each_fits(text: str, max_tokens: int) -> None:
    parts = chunk_text(TOKENIZER, text, max_tokens)
    assert "".join(parts) == text
    assert all(parts)
    assert all(len(row) <= max_tokens for row in TOKENIZER.encode(parts))


def test_a_text_that_fits_is_one_chunk_and_nothing_is_none() -> None:
    assert chunk_text(TOKENIZER, "Alice moved to Lisbon.", 128) == ["Alice moved to Lisbon."]
    assert chunk_text(TOKENIZER, "", 128) == []


def test_cuts_come_after_lines_then_sentences_then_words() -> None:
    turns = "User: I lost my umbrella. Where? I do not know.\n" * 6
    assert all(part.endswith("\n") for part in chunk_text(TOKENIZER, turns, 64))
    sentences = "I lost my blue umbrella on the bus. " * 6
    assert all(part.endswith(". ") for part in chunk_text(TOKENIZER, sentences, 40))
    words = "umbrella " * 40
    assert all(part.endswith(" ") for part in chunk_text(TOKENIZER, words, 20))


def test_a_character_that_no_chunk_can_hold_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(TextTooLong, match="character 0 alone takes 4 tokens"):
        chunk_text(TOKENIZER, "\U000e0041" * 3, 2)
