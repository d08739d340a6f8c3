"""A long text as chunks of at most ``max_tokens`` tokens, cut where it reads naturally."""

from __future__ import annotations

import re

from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import TextTooLong

# Best first: between turns or paragraphs, after a sentence, between words.
_BOUNDARIES = [re.compile(pattern) for pattern in (r"\n+", r"[.!?…。！？]['\")\]”’]*\s+|[。！？]", r"\s+")]


def chunk_text(tokenizer: CodecTokenizer, text: str, max_tokens: int) -> list[str]:
    """Split ``text`` so that the parts joined are the text, and each has at most ``max_tokens`` tokens.

    A part ends after a line, else after a sentence, else after a word, provided that it stays at least half
    full; else at the last whole character that fits.

    Raises:
        TextTooLong: one character alone takes more than ``max_tokens`` tokens.
    """
    offsets = tokenizer.offsets(text)
    if len(offsets) <= max_tokens:
        return [text] if text else []
    chunks = []
    begin, token = 0, 0
    while begin < len(text):
        while token < len(offsets) and offsets[token][0] < begin:
            token += 1
        last = token + max_tokens
        limit = offsets[last][0] if last < len(offsets) else len(text)
        floor = begin + (offsets[(token + min(last, len(offsets))) // 2][0] - begin)
        end = _boundary(text, floor, limit) if limit < len(text) else limit
        # A part alone can take a few more tokens than it took inside the text.
        while (excess := len(tokenizer.encode([text[begin:end]])[0]) - max_tokens) > 0:
            if end == begin + 1:
                raise TextTooLong(
                    f"character {begin} alone takes {excess + max_tokens} tokens, a chunk {max_tokens}"
                )
            limit = max(begin + 1, end - excess)
            end = _boundary(text, min(floor, limit - 1), limit)
        chunks.append(text[begin:end])
        begin = end
    return chunks


def _boundary(text: str, floor: int, limit: int) -> int:
    for pattern in _BOUNDARIES:
        ends = [match.end() for match in pattern.finditer(text, floor, limit)]
        if ends:
            return ends[-1]
    return max(limit, floor + 1)
