"""The protocol of agents, and the latent memory that those of every framework hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from nextmem_agents.evaluation.agent_loop import TURN_ID, read_session
from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.scope import Mode, Scope

Framework = Literal["langchain", "llama-index"]


@dataclass(frozen=True)
class Asked:
    """One question put to an agent.

    Attributes:
        reply: what it said.
        prompt: the last message that its model was given; latents stand in it as ``<N latents>``.
        recalled: turns whose memories it was given, best first.
        text_tokens: tokens of memory in the prompt as text.
        latent_positions: positions of memory in the prompt as latents.
        seconds: the agent's whole turn: recall, decoding, rendering, the framework, the reader.
        reader_seconds: of these, the reader's.
    """

    reply: str
    prompt: str
    recalled: tuple[str, ...]
    text_tokens: int
    latent_positions: int
    seconds: float
    reader_seconds: float

    @property
    def memory_seconds(self) -> float:
        """All but the reader's."""
        return self.seconds - self.reader_seconds


class Agent(Protocol):
    """Reads sessions in their order, then answers; what it is asked and says then is not remembered."""

    def read(self, session: Session) -> None:
        """Take in a session."""

    def ask(self, question: str, asked_at: datetime | None = None) -> Asked:
        """Answer a question.

        Raises:
            ReaderError: the reader gave no reply.
        """


@dataclass(frozen=True)
class Latent:
    """A scope as an agent's memory.

    Attributes:
        scope: what is read and written.
        mode: how what is recalled reaches the model; see ``Scope.answer``.
        k: memories recalled for a question.
        max_tokens: budget of what is given as text.
    """

    scope: Scope
    mode: Mode
    k: int
    max_tokens: int

    def read(self, session: Session) -> None:
        """Remember a session, unless it was: an interrupted run goes on with the store that it left."""
        wanted = sum(bool(turn.text or turn.caption) for turn in session.turns)
        # A session is one transaction: all of it is there, or nothing.
        if wanted and next(self.scope.list(where={"session": session.name}, limit=1), None) is None:
            read_session(self.scope, session)

    def turns(self, ids: Sequence[str]) -> tuple[str, ...]:
        """The turns that memories hold."""
        return tuple(str(memory.metadata[TURN_ID]) for memory in self.scope.get(list(ids))) if ids else ()

    def latents(self, ids: Sequence[str]) -> int:
        """Latent positions of memories, as a model is given them."""
        memories = self.scope.get(list(ids)) if ids else []
        return sum(memory.positions(self.scope.codec) for memory in memories)
