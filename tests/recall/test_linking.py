"""What follows on the best memory."""

from __future__ import annotations

import numpy as np

from nextmem_agents.recall.lexical import Match
from nextmem_agents.recall.linking import LINKS, linked
from tests.recall.outlines import outline

FIVE = outline([(None, None, 5)] * 5)


def match(rows: list[int], rarity: float = 1.0, frequency: int = 1) -> Match:
    n = len(rows)
    return Match(rarity, np.array(rows, np.int64), np.full(n, frequency), np.ones(n))


def test_what_holds_an_open_term_and_the_best_ones_word_comes_before_what_holds_one_of_them() -> None:
    found = linked(FIVE, 0, [match([0]), match([1, 2])], [match([0, 1, 3])])
    assert found is not None
    assert found[1] > found[2] > found[3] > found[4] == 0


def test_the_best_keeps_its_place() -> None:
    found = linked(FIVE, 2, [match([1])], [match([1, 2])])
    assert found is not None
    assert found[2] == found[1] == found.max() <= 1


def test_where_nothing_is_open_nothing_follows() -> None:
    assert linked(FIVE, 0, [match([0, 1])], [match([0, 3])]) is None


def test_words_that_no_other_memory_or_not_the_best_one_holds_do_not_lead_on() -> None:
    assert linked(FIVE, 0, [match([1])], [match([0]), match([2, 3])]) is None


def test_only_the_rarest_words_lead_on() -> None:
    common = [match([0, 1], 0.5)] * LINKS
    found = linked(FIVE, 0, [match([4])], [*common, match([0, 2], 2.0)])
    assert found is not None
    assert found[2] > found[1] / (LINKS - 1) > 0
    assert linked(FIVE, 0, [match([4])], [*[match([0, 1])] * LINKS, match([0, 2], 0.5)])[2] == 0  # type: ignore[index]


def test_a_word_that_the_best_one_repeats_leads_on_further() -> None:
    often = Match(1.0, np.array([0, 1]), np.array([3, 1]), np.ones(2))
    found = linked(FIVE, 0, [match([4])], [often, match([0, 2])])
    assert found is not None
    assert found[1] > found[2]
