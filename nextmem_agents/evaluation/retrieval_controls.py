"""Text memories to compare recall with: what anyone would build on plain text."""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise

from nextmem_agents.evaluation.haystacks import Haystack
from nextmem_agents.recall.lexical import terms

K1, B = 1.2, 0.75  # Lucene's
OWN, BESIDE = 0.65, 0.3


def fts5(haystack: Haystack, k: int) -> list[list[str]]:
    """SQLite FTS5 with Porter stemming over speaker and text, as it comes: the ids of the k best per question."""
    found = []
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE VIRTUAL TABLE items USING fts5(id UNINDEXED, text, tokenize='porter unicode61')")
        sql.executemany(
            "INSERT INTO items VALUES (?, ?)", [(item.id, item.spoken) for item in haystack.items]
        )
        for query in haystack.queries:
            match = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query.text)) or '""'
            rows = sql.execute("SELECT id FROM items WHERE items MATCH ? ORDER BY rank LIMIT ?", (match, k))
            found.append([row[0] for row in rows])
    return found


def bm25(haystack: Haystack, k: int) -> list[list[str]]:
    """BM25 over stems without stop words, speaker included."""
    return [_best(haystack, scores, k) for scores in _bm25(haystack)]


def bm25_with_neighbours(haystack: Haystack, k: int) -> list[list[str]]:
    """:func:`bm25`, with a share of the better score of the items directly before and after in the same session."""
    items = haystack.items
    joined = [a.session is not None and a.session == b.session for a, b in pairwise(items)]
    found = []
    for scores in _bm25(haystack):
        before = [0.0, *(s if j else 0.0 for s, j in zip(scores, joined, strict=False))]
        after = [*(s if j else 0.0 for s, j in zip(scores[1:], joined, strict=True)), 0.0]
        mixed = [OWN * s + BESIDE * max(b, a) for s, b, a in zip(scores, before, after, strict=True)]
        found.append(_best(haystack, mixed, k))
    return found


def _bm25(haystack: Haystack) -> list[list[float]]:
    counts = [terms(item.spoken) for item in haystack.items]
    lengths = [sum(count.values()) for count in counts]
    average = sum(lengths) / max(1, len(lengths))
    held: dict[str, list[tuple[int, int]]] = {}
    for i, count in enumerate(counts):
        for term, n in count.items():
            held.setdefault(term, []).append((i, n))
    found = []
    for query in haystack.queries:
        scores: Counter[int] = Counter()
        highest = 0.0
        for term in terms(query.text):
            df = len(held.get(term, ()))
            idf = math.log(1 + (len(counts) - df + 0.5) / (df + 0.5))
            highest += idf * (K1 + 1)
            for i, n in held.get(term, ()):
                scores[i] += idf * n * (K1 + 1) / (n + K1 * (1 - B + B * lengths[i] / average))  # type: ignore[assignment]
        found.append([scores[i] / highest if highest else 0.0 for i in range(len(counts))])
    return found


def _best(haystack: Haystack, scores: Sequence[float], k: int) -> list[str]:
    order = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: (-scores[i], -i))
    return [haystack.items[i].id for i in order[:k]]
