"""The protocol of text memories, and what all of them make of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nextmem_agents.evaluation.agent_loop import turn_text
from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.readers.reader import Quotation


@dataclass(frozen=True)
class Recalled:
    """What a memory gives for a question.

    Attributes:
        block: the text for the prompt, as the memory itself writes it; the empty string for nothing.
        ids: the turns it comes from, best first.
    """

    block: str
    ids: tuple[str, ...]


class TextMemory(Protocol):
    """A memory that keeps text."""

    def read(self, session: Session) -> None:
        """Take in a session; sessions come in their order."""

    def recall(self, question: str) -> Recalled:
        """What fits a question."""


def quotations(session: Session) -> Sequence[Quotation]:
    """A session's turns as they are rendered for a prompt: what a latent memory would decode to."""
    return [
        Quotation(turn.id, turn_text(turn), turn.speaker, session.date)
        for turn in session.turns
        if turn.text or turn.caption
    ]
