"""Words: what a text is indexed under, and how well a memory's words answer a query's (BM25)."""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import Stemmer

from nextmem_agents.store.outline import Outline
from nextmem_agents.store.records import Postings

# One character a term in scripts written without spaces; words elsewhere, with inner apostrophes.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:['’]\w+)?"
)
_STOP_WORDS = frozenset(
    """a about above after again all am an and any are as at be because been before being below between both but by
    can could did do does doing down during each few for from further had has have having he her here hers him his how
    i if in into is it its itself just me more most my no nor not of off on once only or other our out over own same
    she should so some such than that the their them then there these they this those through to too under until up
    very was we were what when where which while who whom why will with would you your yours i'm it's don't didn't
    doesn't that's i've i'll you're he's she's we're they're isn't wasn't can't won't let's""".split()
)
K1, B = 0.8, 0.6
"""BM25's saturation and length normalisation. Lower than the usual 1.2 and 0.75: a turn of a conversation is short, and
a word that it repeats says little more. Chosen with all seven LoCoMo conversations in view."""

_local = threading.local()  # a stemmer keeps a cache and must not be shared by threads


def words(text: str) -> list[str]:
    """The index terms of a text in their order: words, case-folded, without stop words, stemmed (Porter 2).

    Examples:
        >>> words("She was moving to Lisbon; the movers move!")
        ['move', 'lisbon', 'mover', 'move']
    """
    stemmer = getattr(_local, "stemmer", None)
    if stemmer is None:
        stemmer = _local.stemmer = Stemmer.Stemmer("english")
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = [word.removesuffix("'s") for word in _WORD.findall(folded) if word not in _STOP_WORDS]
    found: list[str] = stemmer.stemWords(kept)
    return found


def terms(text: str) -> Counter[str]:
    """The index terms of a text with their counts; see :func:`words`.

    Examples:
        >>> sorted(terms("She was moving to Lisbon; the movers move!").items())
        [('lisbon', 1), ('move', 2), ('mover', 1)]
    """
    return Counter(words(text))


@dataclass(frozen=True, eq=False)
class Match:
    """Where one of a query's terms stands, or a word of like meaning.

    Attributes:
        idf: how much the term tells, at least 0.
        rows: ``[m]`` int64, the memories that hold it, as rows of the scope's outline; each once.
        frequencies: ``[m]`` int64, how often each does.
        strengths: ``[m]``, 1 for the term itself, less for a related word.
    """

    idf: float
    rows: npt.NDArray[np.int64]
    frequencies: npt.NDArray[np.int64]
    strengths: npt.NDArray[np.float64]


def idf(n: int, df: int) -> float:
    """Lucene's: ln(1 + (N - df + 0.5) / (df + 0.5)), of a term in ``df`` of ``n`` texts."""
    return math.log(1 + (n - df + 0.5) / (df + 0.5))


def saturate(
    frequencies: npt.NDArray[Any], lengths: npt.NDArray[Any], average: float
) -> npt.NDArray[np.float64]:
    """What ``frequencies`` of a term in texts of these lengths count in BM25, 0..K1 + 1."""
    tf = np.asarray(frequencies, dtype=np.float64)
    return np.asarray(tf * (K1 + 1) / (tf + K1 * (1 - B + B * lengths / max(average, 1e-9))))


def locate(postings: Postings, outline: Outline) -> dict[str, Match]:
    """Where terms stand in a scope; one that it has never seen is there too, with no rows."""
    # All terms at once: most of some hundred related words stand in no memory, or in one.
    sizes = [len(term.versions) for term in postings.terms.values()]
    versions = np.concatenate([np.zeros(0, np.int64), *(t.versions for t in postings.terms.values())])
    # What was written between the two reads is in one of them only.
    known = np.isin(versions, outline.versions)
    rows = np.full(len(versions), -1)
    rows[known] = outline.rows(versions[known])
    found = {}
    for (name, term), end in zip(postings.terms.items(), np.cumsum(sizes).tolist(), strict=True):
        own = rows[end - len(term.versions) : end]
        here = own >= 0
        rarity = idf(postings.n_memories, term.document_frequency)
        found[name] = Match(rarity, own[here], term.frequencies[here], np.ones(int(here.sum())))
    return found


def widen(match: Match, related: Iterable[tuple[Match, float]], n: int) -> Match:
    """A term's match with those of related words; each memory counts the one that speaks for it most.

    A related word is worth the square of its cosine to the term, and no more than its own rarity.

    Args:
        match: the term's own.
        related: those of related words, with their cosines.
        n: rows of the outline.
    """
    frequencies, strengths = np.zeros(n, dtype=np.int64), np.zeros(n)
    for other, strength in [(match, 1.0), *((m, c * c * min(1.0, m.idf / match.idf)) for m, c in related)]:
        better = strength * other.frequencies > strengths[other.rows] * frequencies[other.rows]
        rows = other.rows[better]
        frequencies[rows], strengths[rows] = other.frequencies[better], strength
    rows = np.flatnonzero(frequencies)
    return Match(match.idf, rows, frequencies[rows], strengths[rows])


def bm25(outline: Outline, matches: Iterable[Match]) -> npt.NDArray[np.float64]:
    """How well each memory's words answer the query's, 0..1, ``[n]``: BM25 (Robertson and Zaragoza, 2009).

    It is divided by the most that the query's terms could score together. Terms that the scope has never seen count
    in that maximum too: a query of mostly unknown words is answered weakly.
    """
    scores, highest = np.zeros(len(outline)), 0.0
    average = float(outline.lengths.mean()) if len(outline) else 0.0
    for match in matches:
        highest += match.idf * (K1 + 1)
        counted = saturate(match.frequencies, outline.lengths[match.rows], average)
        scores[match.rows] += match.idf * match.strengths * counted
    return scores / highest if highest > 0 else scores
