"""What recall gives: memories with scores, whose texts are decoded together, once, when one is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload

import torch
from torch import Tensor

from nextmem_agents.codec.exact import DecompressedText
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import CodecMismatch, DamagedRecord
from nextmem_agents.quantization import Payload
from nextmem_agents.recall.budget import TokenCounter
from nextmem_agents.recall.explanation import Explanation
from nextmem_agents.recall.policy import Mode, Plan, make_plan
from nextmem_agents.recall.ranking import Score
from nextmem_agents.recall.rendering import render
from nextmem_agents.store.records import Record, Scalar

Decompress = Callable[[Sequence[Sequence[Payload]]], list[DecompressedText]]


class DecodeBatch:
    """Decodes the texts of several memories in one batch, on the first request for any of them.

    A damaged memory does not spoil the others: its error is kept, and raised when its own text is read.
    """

    def __init__(self, payloads: Sequence[Sequence[Payload] | DamagedRecord], decompress: Decompress):
        self._payloads = payloads
        self._decompress = decompress
        self._texts: list[DecompressedText | DamagedRecord] | None = None
        self._lock = threading.Lock()

    @property
    def decoded(self) -> bool:
        """Whether the texts have been decoded."""
        return self._texts is not None

    def payloads(self, index: int) -> Sequence[Payload]:
        """The payloads of memory ``index``; raises its DamagedRecord."""
        payloads = self._payloads[index]
        if isinstance(payloads, DamagedRecord):
            raise payloads
        return payloads

    def latents(self, index: int, codec: LatentCodec) -> Tensor:
        """The latents of memory ``index``, float32 [L, D]; raises its DamagedRecord.

        A chunk that is kept literally is encoded now: it has no latents that were worth keeping.
        """
        return torch.cat(self._rows(index, codec))

    def chunk_latents(self, index: int, codec: LatentCodec) -> Latents:
        """The same, one row per chunk."""
        rows = self._rows(index, codec)
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        return Latents(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, codec.fingerprint)

    def _rows(self, index: int, codec: LatentCodec) -> list[Tensor]:
        rows = []
        for payload in self.payloads(index):
            if payload.latents is not None:
                latents = codec.dequantize([payload.latents])
            else:
                latents = codec.encode([(payload.literal or b"").decode("utf-8")])
            rows.append(latents.values[0])
        return rows

    def decode(self) -> Sequence[DecompressedText | DamagedRecord]:
        """All texts, each memory's own error in the place of its text."""
        with self._lock:
            if self._texts is None:
                sound = [p for p in self._payloads if not isinstance(p, DamagedRecord)]
                decoded = iter(self._decompress(sound))
                self._texts = [p if isinstance(p, DamagedRecord) else next(decoded) for p in self._payloads]
            return self._texts

    def text(self, index: int) -> DecompressedText:
        """The text of memory ``index``; raises its DamagedRecord."""
        text = self.decode()[index]
        if isinstance(text, DamagedRecord):
            raise text
        return text


@dataclass(frozen=True, eq=False)
class Memory:
    """One remembered item.

    ``text`` is decoded when it is first read, together with the texts of all memories of the same call.
    """

    record: Record
    batch: DecodeBatch
    index: int

    @property
    def id(self) -> str:
        """Unique within its scope."""
        return self.record.id

    @property
    def text(self) -> str:
        """The original text; see ``exact``.

        Raises:
            DamagedRecord: the stored bytes no longer check out.
        """
        return self.batch.text(self.index).text

    @property
    def exact(self) -> bool | None:
        """Whether ``text`` is proven to be the original, by its checksum; None until it was decoded.

        Raises:
            DamagedRecord: the text was decoded and this memory's stored bytes do not check out.
        """
        return self.batch.text(self.index).exact if self.batch.decoded else None

    @property
    def fidelity(self) -> float | None:
        """Share of tokens that the decoder alone gets right, 0..1; None if all of the text is kept literally.

        Raises:
            DamagedRecord: the stored bytes no longer check out.
        """
        latent = [p for p in self.batch.payloads(self.index) if p.latents is not None]
        tokens = sum(p.n_tokens for p in latent)
        return 1 - sum(p.n_wrong for p in latent) / tokens if tokens else None

    def is_of(self, codec: LatentCodec) -> bool:
        """Whether its latents are a codec's.

        Raises:
            DamagedRecord: the stored bytes no longer check out.
        """
        return all(payload.codec_id == codec.codec_id for payload in self.batch.payloads(self.index))

    def latents(self, codec: LatentCodec) -> Latents:
        """Its latents in one row, float32 [1, L, D], dequantised; a chunk that is kept literally is encoded now.

        Raises:
            CodecMismatch: they are another codec's.
            DamagedRecord: the stored bytes no longer check out.
        """
        if not self.is_of(codec):
            raise CodecMismatch(
                f"the latents of memory {self.id!r} are not of codec {codec.config.name!r}; use the codec that wrote it"
            )
        rows = self.batch.latents(self.index, codec)
        return Latents(rows[None], torch.tensor([len(rows)], device=rows.device), codec.fingerprint)

    def positions(self, codec: LatentCodec) -> int:
        """Latent positions that :meth:`latents` takes, without making them.

        Raises:
            DamagedRecord: the stored bytes no longer check out.
        """
        return sum(
            codec.config.latents_for(payload.n_tokens)
            if payload.latents is None
            else payload.latents.shape[0]
            for payload in self.batch.payloads(self.index)
        )

    @property
    def n_latents(self) -> int:
        """Latent positions that injecting this memory takes; 0 for text that is kept literally."""
        return sum(p.latents.shape[0] for p in self.batch.payloads(self.index) if p.latents is not None)

    @property
    def session(self) -> str | None:
        """The conversation it belongs to."""
        return self.record.session

    @property
    def agent(self) -> str | None:
        """Who remembered it."""
        return self.record.agent

    @property
    def role(self) -> str | None:
        """Who said it."""
        return self.record.role

    @property
    def occurred_at(self) -> datetime | None:
        """When it happened, UTC."""
        return self.record.occurred_at

    @property
    def created_at(self) -> datetime:
        """When it was first remembered, UTC."""
        return self.record.created_at

    @property
    def updated_at(self) -> datetime:
        """When this version was written, UTC."""
        return self.record.updated_at

    @property
    def metadata(self) -> dict[str, Scalar]:
        """The caller's own fields."""
        return dict(self.record.metadata)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, role={self.role!r}, session={self.session!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Hit(Memory):
    """A recalled memory with its score.

    Attributes:
        parts: the signals of its relevance, which the ranking began with.
        explanation: how score and place came about; see :meth:`explain`.
        beside: the id of the hit in whose session it stands next to it, if that alone is why it is here
            (``recall(neighbours=)``).
    """

    parts: Score
    explanation: Explanation | None = None
    beside: str | None = None

    @property
    def score(self) -> float:
        """How well it answers the query, 0..1, higher is better."""
        return self.explain().score

    def explain(self) -> Explanation:
        """The parts that add up to the score, and the memory's place after each step of the ranking; to be printed.

        Examples:
            >>> from nextmem_agents import NextMem
            >>> with NextMem.open(":memory:") as memory:
            ...     ann = memory.scope("ann")
            ...     _ = ann.remember("She moved to Lisbon.", importance=1.0)
            ...     hit = ann.recall("Who moved to Lisbon?", ranking="lexical", importance=0.25)[0]
            >>> print(hit.explain())
            score 0...
              lexical     0... x 0.750 = +0...
              importance  1.000 x 0.250 = +0.250
            place 1 by relevance, 1 by recency and importance
        """
        return self.explanation or Explanation.of(self.parts, self.index + 1)


class Hits(Sequence[Hit]):
    """The result of one recall, best first."""

    def __init__(self, hits: Sequence[Hit], token_counter: Callable[[str | None], TokenCounter]):
        self._hits = tuple(hits)
        self._token_counter = token_counter

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        if isinstance(index, slice):
            return Hits(self._hits[index], self._token_counter)
        return self._hits[index]

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def decode(self) -> None:
        """Decode all texts now, in one batch, instead of when the first is read."""
        for batch in {id(hit.batch): hit.batch for hit in self._hits}.values():
            batch.decode()

    def as_prompt(self, max_tokens: int | None = None, *, model: str | None = None) -> str:
        """The hits as quoted text with provenance, at most ``max_tokens`` long, for a *user* message.

        Whole memories before cut ones, in the order of their scores; the empty string if there is no hit or not
        even a part of the first fits. Tokens are counted with tiktoken's encoding for ``model`` (a name such as
        ``"gpt-4o"``; o200k_base without one) where its file is on this machine, else with the codec's tokenizer.

        Raises:
            DamagedRecord: a hit's stored bytes no longer check out.
        """
        return render(self._hits, self._token_counter(model), max_tokens)

    def plan(self, *, model: Any = None, mode: Mode = "auto", max_tokens: int | None = None) -> Plan:
        """How a model is to be given the hits, each as text or as latents; to be read before it is carried out.

        A model reads latents if it is their codec, or an adapter over its backbone (``ChatNextMem``, ``NextMemLLM``).
        In ``"auto"`` such a model gets latents, and the text of memories that their latents do not carry (kept
        literally, or of a fidelity under ``MIN_FIDELITY``); every other model gets text. ``"mixed"`` gives the best
        half as exact text, in up to half of the budget, and the others likewise as latents. ``"decompress"`` is text
        alone, ``"inject"`` latents alone.

        Args:
            model: who is to read them: a codec, an adapter's model, the name of a model (for counting tokens), any
                other model, or None for one that reads text.
            mode: see above.
            max_tokens: the budget of text and latents together; whole memories, best first. None for no limit.

        Raises:
            CannotAnswer: ``"inject"`` or ``"mixed"`` for a model that cannot read the latents.
            DamagedRecord: a hit's stored bytes no longer check out.
            InvalidArgument: an argument is malformed.
        """
        counter = self._token_counter(model if isinstance(model, str) else None)
        return make_plan(self._hits, counter, model=model, mode=mode, max_tokens=max_tokens)

    def __repr__(self) -> str:
        return f"Hits({list(self._hits)!r})"
