"""From the best memory to those that answer what it leaves open: the second of two steps to an answer.

"Which river runs through the town where Ann grew up?" shares little with the memory that names the river. What Ann's
memory says of the town leads there, together with the words that it does not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nextmem_agents.recall.lexical import K1, Match, bm25, idf
from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import HeldTerm

LINKS = 10
"""How many of the best memory's own terms lead on: those that tell most.

Chosen, with the signal's weight, on 361 questions of HotpotQA that are not among the reported ones and on 700 of
SQuAD's training set. Recall at 5 and 10 rises from .864 and .968 to .904 and .978 there, and goes from .986 and .991 to
.984 and .993 here, where one passage is the whole answer. In LoCoMo's conversations it costs .003: there, what is said
around the best memory leads on already, so the signal is left out where there are sessions.
"""


def leading(held: Mapping[str, HeldTerm], asked: Collection[str], n: int) -> dict[str, float]:
    """Which of the best memory's own terms lead on, with what each counts, 0..1: how often it says it, saturated.

    Args:
        held: its terms.
        asked: the query's.
        n: memories in the scope.
    """
    counts = {term: found.frequency / (found.frequency + K1) for term, found in held.items()}
    telling = {
        term: counts[term] * idf(n, found.document_frequency)
        for term, found in held.items()
        if term not in asked and found.document_frequency > 1
    }
    return {term: counts[term] for term in sorted(telling, key=lambda term: -telling[term])[:LINKS]}


def linked(
    outline: Outline, best: int, matches: Iterable[Match], own: Iterable[tuple[Match, float]]
) -> npt.NDArray[np.float64] | None:
    """How well each memory goes on from the best one, 0..1, ``[n]``: BM25 of the query's terms that the best memory
    leaves open and of its own that lead on; the best one has as much as any.

    None where it leaves nothing open, or nothing leads on.

    Args:
        outline: of the scope.
        best: the best memory's row.
        matches: of the query's terms.
        own: of the terms that lead on, with what each counts (:func:`leading`).
    """
    open_terms = [match for match in matches if best not in match.rows]
    on = [replace(match, idf=match.idf * count) for match, count in own]
    if not open_terms or not on:
        return None
    scores = bm25(outline, [*open_terms, *on])
    scores[best] = scores.max()
    return scores
