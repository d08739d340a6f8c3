"""Text memories without a model: nothing, everything, the latest, and BM25."""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories.memory import Recalled, quotations
from nextmem_agents.evaluation.readers.reader import Quotation
from nextmem_agents.recall.rendering import HEADING, render, render_one

Count = Callable[[str], int]


class NoMemory:
    """Reads everything and remembers nothing: what a reader knows or guesses by itself."""

    def read(self, session: Session) -> None:
        """Do nothing."""

    def recall(self, question: str) -> Recalled:  # noqa: ARG002 - the protocol's form
        """Nothing."""
        return Recalled("", ())


class LatestTurns:
    """The latest turns that fit a budget, in their order: a sliding window, or with a large budget the full context.

    Args:
        count: the tokens of a text.
        max_tokens: the budget, of the whole block.
    """

    def __init__(self, count: Count, max_tokens: int):
        self._count = count
        self._max_tokens = max_tokens
        self._turns: list[Quotation] = []
        self._made: Recalled | None = None

    def read(self, session: Session) -> None:
        """Append its turns."""
        self._turns += quotations(session)
        self._made = None

    def recall(self, question: str) -> Recalled:  # noqa: ARG002 - the protocol's form
        """The same for every question."""
        if self._made is None:
            self._made = self._latest()
        return self._made

    def _latest(self) -> Recalled:
        # Tokens of the parts say about how many fit; the count of the whole block decides.
        left, n = self._max_tokens - self._count(HEADING), 0
        for turn in reversed(self._turns):
            left -= self._count(f"\n{render_one(turn, len(self._turns))}")
            if left < 0:
                break
            n += 1
        while n:
            chosen = self._turns[-n:]
            block = "\n".join([HEADING, *(render_one(turn, i + 1) for i, turn in enumerate(chosen))])
            if self._count(block) <= self._max_tokens:
                return Recalled(block, tuple(turn.id for turn in chosen))
            n -= 1
        return Recalled("", ())


class Searched(ABC):
    """A text memory that searches: rendering and budget are those of a latent memory, only the search differs.

    Args:
        k: turns to find.
        count, max_tokens: as in :class:`LatestTurns`.
    """

    def __init__(self, k: int, count: Count, max_tokens: int | None):
        self.k = k
        self._count = count
        self._max_tokens = max_tokens
        self._turns: dict[str, Quotation] = {}

    def read(self, session: Session) -> None:
        """Keep and index its turns."""
        new = quotations(session)
        self._turns.update((turn.id, turn) for turn in new)
        self.index(new)

    def recall(self, question: str) -> Recalled:
        """The best turns, quoted with their provenance."""
        found = [self._turns[each] for each in self.search(question)]
        block = render(found, self._count, self._max_tokens)
        return Recalled(block, tuple(turn.id for turn in found))

    @abstractmethod
    def index(self, turns: Sequence[Quotation]) -> None:
        """Make turns searchable."""

    @abstractmethod
    def search(self, question: str) -> Sequence[str]:
        """Ids of the ``k`` best turns, best first."""


class Bm25Memory(Searched):
    """BM25 as anyone would build it: SQLite FTS5 with Porter stemming over speaker and text."""

    def __init__(self, k: int, count: Count, max_tokens: int | None):
        super().__init__(k, count, max_tokens)
        self._sql = sqlite3.connect(":memory:")
        self._sql.execute(
            "CREATE VIRTUAL TABLE turns USING fts5(id UNINDEXED, text, tokenize='porter unicode61')"
        )

    def __del__(self) -> None:
        self._sql.close()

    def index(self, turns: Sequence[Quotation]) -> None:
        """Insert them."""
        self._sql.executemany(
            "INSERT INTO turns VALUES (?, ?)", [(turn.id, f"{turn.role}: {turn.text}") for turn in turns]
        )

    def search(self, question: str) -> Sequence[str]:
        """Any of the question's words."""
        match = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", question))
        if not match:
            return []
        rows = self._sql.execute(
            "SELECT id FROM turns WHERE turns MATCH ? ORDER BY rank LIMIT ?", (match, self.k)
        )
        return [row[0] for row in rows]
