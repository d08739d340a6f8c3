"""How much of the evidence recall finds, beside a plain text memory over the same turns."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.agent_loop import TURN_ID, read, turn_text
from nextmem_agents.evaluation.locomo import Conversation, Question
from nextmem_agents.evaluation.metrics import evidence_recall, hit_at_k, reciprocal_rank
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Ranking

Search = Callable[[str, int], list[str]]


@dataclass(frozen=True)
class Retrieval:
    """One row of a retrieval table: means over the questions of categories 1 to 4 that name evidence.

    Attributes:
        ranking: what ranked; ``"fts5"`` is the control, SQLite's own BM25 over the plain text.
        questions: how many.
        recall_5, recall_10: share of the evidence turns among the first 5 and 10 (LoCoMo's definition).
        hit_5: whether any of the first 5 is evidence (the paper's Hit@5).
        mrr: reciprocal rank of the first evidence turn among the first 10.
        ms: milliseconds a question, texts not decoded.
    """

    ranking: str
    questions: int
    recall_5: float
    recall_10: float
    hit_5: float
    mrr: float
    ms: float


def evaluate(
    conversations: Sequence[Conversation], codec: LatentCodec, done: Callable[[int], None] | None = None
) -> list[Retrieval]:
    """Remember each conversation in a scope of its own, then search it in every way.

    Args:
        conversations: with questions.
        codec: the codec.
        done: called with the number of turns of each session that was read.

    Raises:
        DataError: no question names evidence.
    """
    asked = [(c, [q for q in c.questions if q.category != 5 and q.evidence]) for c in conversations]
    if not any(questions for _, questions in asked):
        raise DataError("no question of categories 1 to 4 names its evidence; there is nothing to score")
    with ExitStack() as stack:
        memory = stack.enter_context(NextMem.open(":memory:", codec=codec))
        for conversation in conversations:
            read(memory.scope(conversation.id), conversation, done)
        rows = [_measure("fts5", [(_fts5(c, stack), questions) for c, questions in asked])]
        rankings: tuple[Ranking, ...] = ("lexical", "latent", "hybrid")
        for ranking in rankings:
            rows.append(_measure(ranking, [(_recall(memory, c, ranking), qs) for c, qs in asked]))
    return rows


def _recall(memory: NextMem, conversation: Conversation, ranking: Ranking) -> Search:
    scope = memory.scope(conversation.id)
    return lambda query, k: [str(hit.metadata[TURN_ID]) for hit in scope.recall(query, k, ranking=ranking)]


def _fts5(conversation: Conversation, stack: ExitStack) -> Search:
    """A text memory as anyone would build it: SQLite FTS5 with Porter stemming, speaker and text."""

    sql = sqlite3.connect(":memory:")
    sql.execute("CREATE VIRTUAL TABLE turns USING fts5(id UNINDEXED, text, tokenize='porter unicode61')")
    rows = [(turn.id, f"{turn.speaker}: {turn_text(turn)}") for turn in conversation.turns]
    sql.executemany("INSERT INTO turns VALUES (?, ?)", rows)

    def search(query: str, k: int) -> list[str]:
        match = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query))
        found = sql.execute("SELECT id FROM turns WHERE turns MATCH ? ORDER BY rank LIMIT ?", (match, k))
        return [row[0] for row in found]

    stack.callback(sql.close)
    return search


def _measure(name: str, searches: Sequence[tuple[Search, Sequence[Question]]]) -> Retrieval:
    recall_5, recall_10, hit_5, rank = 0.0, 0.0, 0.0, 0.0
    n = sum(len(questions) for _, questions in searches)
    started = time.perf_counter()
    for search, questions in searches:
        for question in questions:
            found = search(question.text, 10)
            recall_5 += evidence_recall(found, question.evidence, 5)
            recall_10 += evidence_recall(found, question.evidence, 10)
            hit_5 += hit_at_k(found, question.evidence, 5)
            rank += reciprocal_rank(found, question.evidence)
    ms = 1000 * (time.perf_counter() - started) / n
    return Retrieval(name, n, recall_5 / n, recall_10 / n, hit_5 / n, rank / n, ms)
