"""Swapping a word changes the latent in whose stretch it lies, and the measurement says so."""

from __future__ import annotations

import pytest

from nextmem_agents import LatentCodec
from nextmem_agents.codec.exact import compress
from nextmem_agents.inspector.probing import sensitivity_view, word_ranges

TEXT = "My neighbour Anna sold the old boat last week, and she wants to move to Lisbon as soon as she can."


def test_change_falls_where_the_word_lies(codec: LatentCodec) -> None:
    [[chunk]] = compress(codec, [TEXT])
    view = sensitivity_view(codec, chunk.payload)
    n = codec.config.latents_for(chunk.payload.n_tokens)
    assert all(len(word["change"]) == n and min(word["change"]) >= 0 for word in view["words"])
    assert view["share_inside"] > 1.5 * view["share_by_chance"]
    [lisbon] = [word for word in view["words"] if word["text"] == "Lisbon"]
    most = max(range(n), key=lisbon["change"].__getitem__)
    tokens_per_latent = codec.config.tokens_per_latent or 1
    assert lisbon["begin"] // tokens_per_latent <= most <= (lisbon["end"] - 1) // tokens_per_latent


def test_a_text_of_one_token_has_nothing_to_swap(codec: LatentCodec) -> None:
    [[chunk]] = compress(codec, ["a"])
    assert sensitivity_view(codec, chunk.payload) == {"words": []}


@pytest.mark.parametrize("pieces", [[], ["a"], [" a", "b", "\nc"]])
def test_words_cover_all_tokens(pieces: list[str]) -> None:
    assert [i for begin, end in word_ranges(pieces) for i in range(begin, end)] == list(range(len(pieces)))
