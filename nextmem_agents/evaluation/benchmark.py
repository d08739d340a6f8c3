"""Histories to read and questions to answer, in one form for every data set, each with its own official score."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.evaluation.locomo import CATEGORIES, Conversation, Question, Session, load_locomo
from nextmem_agents.evaluation.metrics import locomo_answer_f1

ADVERSARIAL = CATEGORIES[5]


@dataclass(frozen=True)
class Query:
    """A question to put to an agent after it has read a history.

    Attributes:
        id: unique in its benchmark.
        text: the question.
        category: the data set's own name for its kind.
        answers: the right answers; the empty tuple where nothing but a refusal is right.
        evidence: ids of the turns, or names of the sessions, that hold the answer; see ``Benchmark.evidence_of``.
        asked_at: when it is asked; None where the data set does not say.
    """

    id: str
    text: str
    category: str
    answers: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    asked_at: datetime | None = None


@dataclass(frozen=True)
class History:
    """What is read before the questions: sessions in their order; turn ids are unique in a history."""

    id: str
    sessions: tuple[Session, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Benchmark:
    """A data set, ready to be put to agents.

    Attributes:
        name: what tables call it.
        source: the file it came from.
        sha256: of that file.
        histories: in the file's order.
        categories: in the order that tables show them.
        metric: the name of what ``score`` gives.
        score: a reply's score for a query, 0..1, higher is better.
        apart: categories that are reported apart and stand in no mean.
        evidence_of: ``"turn"`` or ``"session"``: what a query's evidence names.
    """

    name: str
    source: str
    sha256: str
    histories: tuple[History, ...]
    categories: tuple[str, ...]
    metric: str
    score: Callable[[Query, str], float]
    apart: frozenset[str] = frozenset()
    evidence_of: str = "turn"

    @property
    def n_queries(self) -> int:
        """Questions in all histories."""
        return sum(len(history.queries) for history in self.histories)

    def cut(
        self, histories: Sequence[str] | None = None, limit: int | None = None, queries: int | None = None
    ) -> Benchmark:
        """The same with fewer histories, or fewer questions of each.

        Args:
            histories: their ids.
            limit: at most so many histories, the first ones.
            queries: at most so many questions of each history, spread evenly over them.

        Raises:
            InvalidArgument: there is no history of an id.
        """
        known = {history.id: history for history in self.histories}
        if unknown := [name for name in histories or () if name not in known]:
            raise InvalidArgument(
                f"{self.source} has no conversation {unknown[0]!r}; it has {', '.join(known)}"
            )
        chosen = [known[name] for name in histories] if histories else [*self.histories]
        chosen = chosen[:limit]
        if queries is not None:
            chosen = [replace(history, queries=_spread(history.queries, queries)) for history in chosen]
        present = {query.category for history in chosen for query in history.queries}
        return replace(
            self,
            histories=tuple(chosen),
            categories=tuple(name for name in self.categories if name in present),
        )


def _spread(queries: tuple[Query, ...], n: int) -> tuple[Query, ...]:
    """``n`` of them, evenly: a file often groups its questions by category."""
    if n >= len(queries):
        return queries
    return tuple(queries[i * len(queries) // n] for i in range(n))


def locomo_benchmark(path: Path) -> Benchmark:
    """LoCoMo's conversations, scored as LoCoMo's own script does.

    A question of category 5 has no right answer but a refusal; it is reported apart, since always refusing scores
    1.0 there.

    Raises:
        DataError: the file is missing or malformed.
    """
    conversations = load_locomo(path)
    questions = {
        f"{conversation.id}/{i:03d}": question
        for conversation in conversations
        for i, question in enumerate(conversation.questions)
    }
    present = {CATEGORIES[question.category] for question in questions.values()}
    return Benchmark(
        name="LoCoMo",
        source=path.name,
        sha256=file_hash(path),
        histories=tuple(_locomo_history(conversation) for conversation in conversations),
        categories=tuple(name for name in CATEGORIES.values() if name in present),
        metric="official F1",
        score=lambda query, reply: locomo_answer_f1(reply, questions[query.id]),
        apart=frozenset({ADVERSARIAL}),
    )


def _locomo_history(conversation: Conversation) -> History:
    def query(i: int, question: Question) -> Query:
        return Query(
            id=f"{conversation.id}/{i:03d}",
            text=question.text,
            category=CATEGORIES[question.category],
            answers=() if question.category == 5 or question.answer is None else (question.answer,),
            evidence=question.evidence,
        )

    queries = tuple(query(i, question) for i, question in enumerate(conversation.questions))
    return History(conversation.id, conversation.sessions, queries)


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
