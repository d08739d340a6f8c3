"""Question answering without an agent: the same hits, to the same reader, in every way that memory can reach it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from nextmem_agents.errors import CannotAnswer, InvalidArgument
from nextmem_agents.evaluation.agents.agent import Asked, Latent
from nextmem_agents.evaluation.benchmark import History
from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories.memory import quotations
from nextmem_agents.evaluation.readers.codec import CodecReader
from nextmem_agents.evaluation.readers.reader import Quotation, Reader
from nextmem_agents.recall.hits import Hits

NONE, TEXT, DECOMPRESS, INJECT, MIXED = "none", "text", "decompress", "inject", "mixed"
WAYS = (NONE, TEXT, DECOMPRESS, INJECT, MIXED)


def ways_for(reader: Reader) -> tuple[str, ...]:
    """The ways that memory can reach a reader: as latents, only the model that they are made for."""
    if not isinstance(reader, CodecReader):
        return WAYS[:3]
    return WAYS


def check_way(way: str, reader: Reader) -> None:
    """Raise InvalidArgument for an unknown way, CannotAnswer for one that the reader cannot take."""
    if way not in WAYS:
        raise InvalidArgument(f"there is no way {way!r}; ways are {', '.join(WAYS)}")
    if way not in ways_for(reader):
        raise CannotAnswer(
            f"{reader.name} cannot be given latents; {way!r} needs --reader codec, with a codec that can answer"
        )


class Recalls:
    """Recalls each question once, for all ways: they are compared on the same hits."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[Hits, float, float]] = {}

    def __call__(self, latent: Latent, question: str) -> tuple[Hits, float, float]:
        """The hits, the seconds of the recall, and those of decoding their texts."""
        key = (latent.scope.name, question)
        if key not in self._found:
            started = time.perf_counter()
            hits = latent.scope.recall(question, latent.k)
            recalled = time.perf_counter()
            hits.decode()
            self._found[key] = hits, recalled - started, time.perf_counter() - recalled
        return self._found[key]


class DirectReading:
    """One way from memory to reader, over one history.

    - ``none``: the question alone.
    - ``text``: the original texts of the hits, as a plain text memory would give them.
    - ``decompress``: the texts that were decoded from the latents of the hits.
    - ``inject``: the latents of the hits.
    - ``mixed``: the best evidence as text, the rest as latents.
    """

    def __init__(
        self,
        way: str,
        latent: Latent,
        history: History,
        reader: Reader,
        count: Callable[[str], int],
        recalls: Recalls,
    ):
        check_way(way, reader)
        self._way = way
        self._latent = latent
        self._reader = reader
        self._count = count
        self._recalls = recalls
        self._texts = {turn.id: turn for session in history.sessions for turn in quotations(session)}

    def read(self, session: Session) -> None:
        """Remember a session, in a way that recalls."""
        if self._way != NONE:
            self._latent.read(session)

    def ask(self, question: str, asked_at: datetime | None = None) -> Asked:
        """Answer a question in this way."""
        if self._way in (INJECT, MIXED):
            return self._from_latents(question)
        hits, *spent = ((), 0.0) if self._way == NONE else self._recalls(self._latent, question)
        ids = self._latent.turns([hit.id for hit in hits])
        memories: Sequence[Any] = hits
        if self._way == TEXT:
            memories = [self._original(id_) for id_ in ids]
        started = time.perf_counter()
        told = self._reader.read(
            memories, question, self._count, self._latent.max_tokens, self._reader.told(asked_at)
        )
        seconds = time.perf_counter() - started
        return Asked(
            reply=told.text,
            prompt=told.prompt,
            recalled=ids,
            text_tokens=told.text_tokens,
            latent_positions=told.latent_positions,
            seconds=sum(spent) + seconds,
            reader_seconds=seconds,
        )

    def _original(self, id_: str) -> Quotation:
        return self._texts[id_]

    def _from_latents(self, question: str) -> Asked:
        """By ``Scope.answer``, whose plan of what is given how is the product's own."""
        latent = self._latent
        started = time.perf_counter()
        answer = latent.scope.answer(
            question,
            k=latent.k,
            mode="mixed" if self._way == MIXED else "inject",
            max_tokens=latent.max_tokens,
        )
        seconds = time.perf_counter() - started
        plan = answer.plan
        positions, tokens = (plan.latent_positions, plan.text_tokens) if plan else (0, 0)
        # Its own recall is in the time; what the same recall took for the other ways says how much is the reader's.
        _, recall_seconds, _ = self._recalls(latent, question)
        return Asked(
            reply=answer.text.strip(),
            prompt=f"<{positions} latents, {tokens} tokens of text>\n{question}",
            recalled=latent.turns([hit.id for hit in answer.hits]),
            text_tokens=tokens,
            latent_positions=positions,
            seconds=seconds,
            reader_seconds=max(0.0, seconds - recall_seconds),
        )
