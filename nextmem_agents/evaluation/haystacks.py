"""What is searched, and what each question should find there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.agent_loop import turn_text
from nextmem_agents.evaluation.benchmark import Benchmark, History, Query

WHOLE = 20
"""A LongMemEval haystack of fewer sessions is none: among a handful, any five hold the answer."""


@dataclass(frozen=True)
class Item:
    """What becomes one memory: a turn, or a passage, which has no session, speaker or time."""

    id: str
    text: str
    session: str | None = None
    role: str | None = None
    occurred_at: datetime | None = None

    @property
    def spoken(self) -> str:
        """The text with its speaker before it."""
        return f"{self.role}: {self.text}" if self.role else self.text


@dataclass(frozen=True)
class Haystack:
    """One scope's items, and questions that name what they should find: items, or with ``by_session``, sessions."""

    name: str
    items: tuple[Item, ...]
    queries: tuple[Query, ...]
    by_session: bool = False

    def ranked(self, ids: Iterable[str]) -> list[str]:
        """Item ids as what questions name: sessions by their best item, each once."""
        if not self.by_session:
            return list(ids)
        sessions = {item.id: item.session or item.id for item in self.items}
        return list(dict.fromkeys(sessions[id_] for id_ in ids))


def conversations(benchmark: Benchmark) -> list[Haystack]:
    """A haystack per history: LoCoMo's conversations, LongMemEval's whole haystacks.

    Questions without evidence, and those of the categories that are reported apart, are left out, as the official
    scripts do.

    Raises:
        DataError: nothing is left.
    """
    by_session = benchmark.evidence_of == "session"
    found = []
    for history in benchmark.histories:
        asked = [q for q in history.queries if q.evidence and q.category not in benchmark.apart]
        if by_session and len(history.sessions) < WHOLE:
            continue
        if asked:
            found.append(Haystack(history.id, _turns(history), tuple(asked), by_session))
    if not found:
        raise DataError(f"{benchmark.source}: no question names its evidence in a whole history")
    return found


def passages(benchmark: Benchmark, limit: int | None = None) -> Haystack:
    """All passages of a SQuAD or HotpotQA file in one haystack, and their questions.

    Args:
        benchmark: with a question's paragraphs as its history's turns.
        limit: at most so many questions, spread evenly; SQuAD's passages all stay, HotpotQA's are those of the
            questions asked.

    Raises:
        DataError: no question names a passage.
    """
    items: dict[str, Item] = {}
    queries: list[Query] = []
    titled = benchmark.name == "HotpotQA"
    asked = [h for h in benchmark.histories if any(q.evidence for q in h.queries)]
    if titled and limit is not None:
        asked = [asked[i * len(asked) // limit] for i in range(limit)] if limit < len(asked) else asked
    for history in asked:
        ids = {}
        for session in history.sessions:
            for turn in session.turns:
                text = f"{turn.speaker}. {turn.text}" if titled else turn.text
                # The same paragraph stands beside several questions.
                ids[turn.id] = items.setdefault(text, Item(f"p{len(items)}", text)).id
        for query in history.queries:
            if query.evidence:
                named = tuple(dict.fromkeys(ids[e] for e in query.evidence))
                queries.append(Query(query.id, query.text, query.category, query.answers, named))
    if not queries:
        raise DataError(f"{benchmark.source}: no question names a passage")
    if limit is not None and limit < len(queries):
        queries = [queries[i * len(queries) // limit] for i in range(limit)]
    return Haystack(benchmark.name, tuple(items.values()), tuple(queries))


def _turns(history: History) -> tuple[Item, ...]:
    return tuple(
        Item(turn.id, turn_text(turn), session.name, turn.speaker, session.date)
        for session in history.sessions
        for turn in session.turns
        if turn.text or turn.caption
    )
