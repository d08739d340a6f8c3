"""Words: what a text is indexed under, and how well a memory's words answer a query's (BM25)."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import Counter

import numpy as np
import numpy.typing as npt
import Stemmer

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
K1, B = 1.2, 0.75

_local = threading.local()  # a stemmer keeps a cache and must not be shared by threads


def terms(text: str) -> Counter[str]:
    """The index terms of a text with their counts: words, case-folded, without stop words, stemmed (Porter 2).

    Examples:
        >>> sorted(terms("She was moving to Lisbon; the movers move!").items())
        [('lisbon', 1), ('move', 2), ('mover', 1)]
    """
    stemmer = getattr(_local, "stemmer", None)
    if stemmer is None:
        stemmer = _local.stemmer = Stemmer.Stemmer("english")
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    words = [word for word in _WORD.findall(folded) if word not in _STOP_WORDS]
    return Counter(stemmer.stemWords([word.removesuffix("'s") for word in words]))


def bm25(postings: Postings) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Score every memory that shares a term with the query, 0..1.

    BM25 with Lucene's idf, ln(1 + (N - df + 0.5) / (df + 0.5)) (Robertson and Zaragoza, 2009), divided by the most
    that the query's terms could score together. Terms that the scope has never seen count in that maximum too: a
    query of mostly unknown words is answered weakly.

    Returns:
        Versions int64 [n], ascending, and their scores float64 [n].
    """
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    highest = 0.0
    for term in postings.terms.values():
        df = term.document_frequency
        idf = np.log(1 + (postings.n_memories - df + 0.5) / (df + 0.5))
        highest += idf * (K1 + 1)
        tf = term.frequencies.astype(np.float64)
        norm = K1 * (1 - B + B * term.lengths / max(postings.average_length, 1e-9))
        found.append((term.versions, idf * tf * (K1 + 1) / (tf + norm)))
    if not found or highest <= 0:
        return np.zeros(0, np.int64), np.zeros(0)
    versions, inverse = np.unique(np.concatenate([v for v, _ in found]), return_inverse=True)
    scores = np.bincount(inverse, np.concatenate([s for _, s in found]), minlength=len(versions))
    return versions, scores / highest
