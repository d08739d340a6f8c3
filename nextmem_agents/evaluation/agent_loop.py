"""An agent's life in small: it reads a conversation session by session, then is asked about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nextmem_agents.evaluation.locomo import Conversation, Question, Session, Turn
from nextmem_agents.evaluation.metrics import evidence_recall, locomo_answer_f1
from nextmem_agents.recall.hits import Hits
from nextmem_agents.scope import Scope

TURN_ID = "dia_id"
Ask = Callable[[str], str]


def turn_text(turn: Turn) -> str:
    """What is remembered of a turn: its text, and what the picture shows that was sent with it."""
    return f"{turn.text} [picture: {turn.caption}]" if turn.caption else turn.text


def read(scope: Scope, conversation: Conversation, done: Callable[[int], None] | None = None) -> None:
    """Remember every turn, one write per session; calls ``done`` with the number of turns of each."""
    for session in conversation.sessions:
        n = read_session(scope, session)
        if done is not None:
            done(n)


def read_session(scope: Scope, session: Session) -> int:
    """Remember a session's turns in one write; returns how many have anything to remember."""
    turns = [turn for turn in session.turns if turn.text or turn.caption]
    scope.remember(
        [turn_text(turn) for turn in turns],
        session=session.name,
        role=[turn.speaker for turn in turns],
        occurred_at=session.date,
        metadata=[{TURN_ID: turn.id} for turn in turns],
    )
    return len(turns)


@dataclass(frozen=True)
class Asked:
    """One question, what was recalled for it, and the agent's reply.

    Attributes:
        question: the question.
        hits: what the agent recalled.
        reply: what it said.
        evidence_recall: share of the evidence turns among the hits; None where the question has no evidence.
        f1: LoCoMo's official answer score of the reply, 0..1.
        text_tokens: tokens of the hits as text.
        latent_tokens: positions of the hits as latents.
        recall_seconds: time of the recall with its texts decoded.
        answer_seconds: time of the agent's whole turn, its own recall included.
    """

    question: Question
    hits: Hits
    reply: str
    evidence_recall: float | None
    f1: float
    text_tokens: int
    latent_tokens: int
    recall_seconds: float
    answer_seconds: float


def ask(scope: Scope, conversation: Conversation, agent: Ask, k: int) -> Iterator[Asked]:
    """Put every question of a conversation to an agent that recalls from ``scope``."""
    count = scope.token_counter()
    for question in conversation.questions:
        started = time.perf_counter()
        hits = scope.recall(question.text, k)
        texts = [hit.text for hit in hits]
        recalled = time.perf_counter()
        reply = agent(question.text)
        answered = time.perf_counter()
        ids = [str(hit.metadata[TURN_ID]) for hit in hits]
        yield Asked(
            question=question,
            hits=hits,
            reply=reply,
            evidence_recall=evidence_recall(ids, question.evidence) if question.evidence else None,
            f1=locomo_answer_f1(reply, question),
            text_tokens=sum(map(count, texts)),
            latent_tokens=sum(hit.n_latents for hit in hits),
            recall_seconds=recalled - started,
            answer_seconds=answered - recalled,
        )


@dataclass(frozen=True)
class Totals:
    """Means over the questions of one or several conversations.

    ``evidence_recall`` and ``hit_rate`` are over the questions of categories 1 to 4 that name evidence, as LoCoMo
    is scored; ``adversarial_f1`` is category 5, where only a refusal counts.
    """

    questions: int
    scored: int
    evidence_recall: float
    hit_rate: float
    f1: float
    adversarial_f1: float | None
    exact: float
    text_tokens: float
    latent_tokens: float
    recall_ms: float
    answer_ms: float


def total(asked: Sequence[Asked]) -> Totals:
    """Sum up; ``asked`` must not be empty."""
    scored = [a for a in asked if a.evidence_recall is not None and a.question.category != 5]
    answerable = [a for a in asked if a.question.category != 5]
    adversarial = [a.f1 for a in asked if a.question.category == 5]
    hits = [hit for a in asked for hit in a.hits]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    return Totals(
        questions=len(asked),
        scored=len(scored),
        evidence_recall=mean([a.evidence_recall or 0.0 for a in scored]),
        hit_rate=mean([float(bool(a.evidence_recall)) for a in scored]),
        f1=mean([a.f1 for a in answerable]),
        adversarial_f1=mean(adversarial) if adversarial else None,
        exact=mean([float(bool(hit.exact)) for hit in hits]),
        text_tokens=mean([a.text_tokens for a in asked]),
        latent_tokens=mean([a.latent_tokens for a in asked]),
        recall_ms=1000 * mean([a.recall_seconds for a in asked]),
        answer_ms=1000 * mean([a.answer_seconds for a in asked]),
    )
