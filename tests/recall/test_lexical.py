"""Words: terms of texts in many scripts, and BM25 as a share of its maximum."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nextmem_agents.recall.lexical import K1, B, Match, bm25, idf, locate, terms, widen, words
from nextmem_agents.store import Postings, TermPostings
from tests.recall.outlines import outline


def posting(df: int, rows: list[tuple[int, int]]) -> TermPostings:
    versions, frequencies = (
        (np.array(c, np.int64) for c in zip(*rows, strict=True)) if rows else [np.zeros(0, np.int64)] * 2
    )
    return TermPostings(df, versions, frequencies)


def test_words_are_folded_stemmed_and_stripped_of_stop_words() -> None:
    assert terms("The movers' moving; MOVES") == terms("mover move move")
    assert terms("the and of") == {}


@pytest.mark.parametrize("text", ["東京に行った", "서울", "Ελλάδα", "été", "naïve café №7", "C3PO"])
def test_every_script_has_terms(text: str) -> None:
    assert sum(terms(text).values()) > 0


def test_cjk_characters_are_terms_of_their_own() -> None:
    assert set(terms("東京")) == {"東", "京"}


def test_composed_and_decomposed_letters_are_the_same_term() -> None:
    assert terms("caf\u00e9") == terms("cafe\u0301")


def test_threads_agree() -> None:
    texts = [f"running runners ran {i} times happily" for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(terms, texts)) == [terms(text) for text in texts]


def test_words_keep_their_order() -> None:
    assert words("Lisbon, then Porto, then Lisbon") == ["lisbon", "porto", "lisbon"]


def test_bm25_is_its_formula() -> None:
    # Memories 1 to 10, of 4 and 8 and otherwise 5 terms; rows of an outline begin at 0.
    scope = outline([("s", "a", n) for n in (4, 5, 8, 5, 5, 5, 5, 5, 5, 5)])
    found = Postings(10, 5.2, {"cat": posting(2, [(1, 1), (3, 2)]), "dog": posting(0, [])})
    scores = bm25(scope, locate(found, scope).values())
    rarity = {df: math.log(1 + (10 - df + 0.5) / (df + 0.5)) for df in (0, 2)}
    highest = (rarity[0] + rarity[2]) * (K1 + 1)
    expected = [
        rarity[2] * tf * (K1 + 1) / (tf + K1 * (1 - B + B * n / 5.2)) / highest for tf, n in ((1, 4), (2, 8))
    ]
    assert np.flatnonzero(scores).tolist() == [0, 2]
    assert scores[[0, 2]].tolist() == pytest.approx(expected)


def test_scores_stay_below_one_even_for_a_perfect_match() -> None:
    scope = outline([("s", "a", 8)] * 1000)
    scores = bm25(scope, locate(Postings(1000, 8.0, {"cat": posting(1, [(1, 500)])}), scope).values())
    assert 0.9 < scores[0] < 1


def test_no_terms_and_no_memories_give_no_scores() -> None:
    for found in (Postings(0, 0.0, {}), Postings(0, 0.0, {"cat": posting(0, [])})):
        assert len(bm25(outline([]), locate(found, outline([])).values())) == 0


def test_what_was_written_after_the_outline_was_read_is_left_out() -> None:
    scope = outline([("s", "a", 3)])
    assert locate(Postings(1, 3.0, {"cat": posting(2, [(1, 1), (2, 1)])}), scope)["cat"].rows.tolist() == [0]


def match(rarity: float, rows: list[int], frequencies: list[int]) -> Match:
    return Match(rarity, np.array(rows), np.array(frequencies), np.ones(len(rows)))


def test_a_related_word_counts_by_its_cosine_and_its_own_rarity() -> None:
    own, near, common = match(2.0, [0], [1]), match(4.0, [0, 1], [1, 3]), match(1.0, [2], [1])
    found = widen(own, [(near, 0.5), (common, 0.8)], 4)
    assert found.rows.tolist() == [0, 1, 2]
    assert found.frequencies.tolist() == [1, 3, 1]
    assert found.strengths.tolist() == pytest.approx([1.0, 0.25, 0.64 / 2])
    assert found.idf == own.idf


def test_a_term_without_related_words_stays_as_it_is() -> None:
    own = match(2.0, [1, 3], [2, 1])
    found = widen(own, [], 5)
    assert (found.rows.tolist(), found.frequencies.tolist()) == ([1, 3], [2, 1])
    assert found.strengths.tolist() == [1, 1]


def test_rarer_terms_tell_more() -> None:
    values = [idf(100, df) for df in range(101)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
