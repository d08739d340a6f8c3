"""What follows on the best memory."""

from __future__ import annotations

import numpy as np

from nextmem_agents.recall.lexical import Match
from nextmem_agents.recall.linking import LINKS, leading, linked
from nextmem_agents.store.records import HeldTerm
from tests.recall.outlines import outline

FIVE = outline([(None, None, 5)] * 5)


def match(rows: list[int]) -> Match:
    n = len(rows)
    return Match(1.0, np.array(rows, np.int64), np.ones(n, np.int64), np.ones(n))


def test_what_holds_an_open_term_and_the_best_ones_word_comes_before_what_holds_one_of_them() -> None:
    found = linked(FIVE, 0, [match([0]), match([1, 2])], [(match([0, 1, 3]), 0.6)])
    assert found is not None
    assert found[1] > found[2] > found[3] > found[4] == 0


def test_the_best_keeps_its_place() -> None:
    found = linked(FIVE, 2, [match([1])], [(match([1, 2]), 1.0)])
    assert found is not None
    assert found[2] == found[1] == found.max() <= 1


def test_where_nothing_is_open_nothing_follows() -> None:
    assert linked(FIVE, 0, [match([0, 1])], [(match([0, 3]), 1.0)]) is None


def test_without_a_word_that_leads_on_nothing_follows() -> None:
    assert linked(FIVE, 0, [match([1])], []) is None


def test_the_rarest_words_lead_on_and_those_that_are_repeated_count_for_more() -> None:
    held = {f"common{i}": HeldTerm(1, 90) for i in range(LINKS)}
    held |= {
        "rare": HeldTerm(1, 2),
        "often": HeldTerm(4, 50),
        "asked": HeldTerm(1, 2),
        "alone": HeldTerm(1, 1),
    }
    found = leading(held, {"asked"}, 100)
    assert next(iter(found)) == "rare"
    assert len(found) == LINKS
    assert not {"asked", "alone"} & set(found)
    assert found["often"] > found["rare"]
