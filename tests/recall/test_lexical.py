"""Words: terms of texts in many scripts, and BM25 as a share of its maximum."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nextmem_agents.recall.lexical import K1, B, bm25, terms
from nextmem_agents.store import Postings, TermPostings


def posting(df: int, rows: list[tuple[int, int, int]]) -> TermPostings:
    versions, frequencies, lengths = (
        (np.array(c, np.int64) for c in zip(*rows, strict=True)) if rows else [np.zeros(0, np.int64)] * 3
    )
    return TermPostings(df, versions, frequencies, lengths)


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


def test_bm25_is_its_formula() -> None:
    found = Postings(10, 5.0, {"cat": posting(2, [(1, 1, 4), (3, 2, 8)]), "dog": posting(0, [])})
    versions, scores = bm25(found)
    idf = {df: math.log(1 + (10 - df + 0.5) / (df + 0.5)) for df in (0, 2)}
    highest = (idf[0] + idf[2]) * (K1 + 1)
    expected = [
        idf[2] * tf * (K1 + 1) / (tf + K1 * (1 - B + B * n / 5)) / highest for tf, n in ((1, 4), (2, 8))
    ]
    assert versions.tolist() == [1, 3]
    assert scores.tolist() == pytest.approx(expected)


def test_scores_stay_below_one_even_for_a_perfect_match() -> None:
    _, scores = bm25(Postings(1000, 8.0, {"cat": posting(1, [(1, 500, 1)])}))
    assert 0.9 < scores[0] < 1


def test_no_terms_and_no_memories_give_no_scores() -> None:
    for found in (Postings(0, 0.0, {}), Postings(0, 0.0, {"cat": posting(0, [])})):
        versions, scores = bm25(found)
        assert len(versions) == len(scores) == 0
