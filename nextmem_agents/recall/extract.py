"""A reader without a language model: the recalled sentence that shares most with the question, word for word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from nextmem_agents.recall.lexical import terms

_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"')\]]*|\n|$)")


class Scored(Protocol):
    """A recalled text with its score."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102


def best_sentence(question: str, hits: Sequence[Scored]) -> str:
    """The sentence with the greatest (share of the question's terms it has) × (score of its memory).

    Half of a memory's other words count as well, so that the answer beside the matching words is preferred to a
    sentence that only repeats the question. The empty string where nothing was recalled.
    """
    wanted = set(terms(question))
    best, best_score = "", -1.0
    for hit in hits:
        for match in _SENTENCE.finditer(hit.text):
            sentence = match.group().strip()
            found = set(terms(sentence))
            # A remembered question shares most with itself, and answers nothing.
            if not found or sentence.endswith("?"):
                continue
            overlap = len(found & wanted) / max(1, len(wanted))
            news = min(1.0, len(found - wanted) / 4)
            score = hit.score * (overlap + 0.5 * news)
            if score > best_score:
                best, best_score = sentence, score
    return best or (hits[0].text if hits else "")
