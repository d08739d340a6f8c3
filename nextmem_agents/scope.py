"""``Scope``: the only place where memories are read and written."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Literal, overload

import torch

from nextmem_agents.asynchronous import async_iterator_twin, async_twin
from nextmem_agents.codec.exact import DecompressedText, compress, decompress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import CannotAnswer, DamagedRecord, EmptyText, InvalidArgument, PayloadError
from nextmem_agents.items import Item, as_items
from nextmem_agents.quantization import Payload, encode_binding
from nextmem_agents.recall.budget import TokenCounter, token_counter
from nextmem_agents.recall.extract import best_sentence
from nextmem_agents.recall.hits import DecodeBatch, Hit, Hits, Memory
from nextmem_agents.recall.lexical import bm25, terms
from nextmem_agents.recall.ranking import Score, fuse
from nextmem_agents.store.records import NewRecord, Record, Scalar, Store, Where

Mode = Literal["auto", "decompress", "inject"]
Ranking = Literal["hybrid", "latent", "lexical"]
_PAGE = 64  # memories decoded together when all are listed
_MIN_CANDIDATES = 256  # nearest memories that get a latent score of their own

_MAX_SOURCES = 128  # lexical candidates whose neighbours gain from them


@dataclass(frozen=True)
class Answer:
    """A reply with what it was made from.

    Attributes:
        text: the reply.
        hits: the memories it was given.
        mode: ``"decompress"`` (the memories went in as text) or ``"inject"`` (as latents).
        reader: who answered: ``"model"``, ``"codec"``, or ``"extract"`` (the best recalled sentence, verbatim).
        context_tokens: tokens of memory in the reader's context, as text or as latent positions.
    """

    text: str
    hits: Hits
    mode: Literal["decompress", "inject"]
    reader: Literal["model", "codec", "extract"]
    context_tokens: int

    def __str__(self) -> str:
        return self.text


class Scope:
    """Everything one user or tenant remembers; made by :meth:`NextMem.scope`.

    Reads and writes of one scope never see another's. Every method has an async twin with an ``a`` before its name.
    """

    def __init__(self, name: str, store: Store, codec: LatentCodec, keep_text: bool | None = None):
        self.name = name
        self._store = store
        self.codec = codec
        self._keep_text = keep_text

    def __repr__(self) -> str:
        return f"Scope({self.name!r})"

    @overload
    def remember(
        self,
        text: str,
        *,
        id: str | None = None,
        session: str | None = None,
        agent: str | None = None,
        role: str | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, Scalar] | None = None,
    ) -> str: ...
    @overload
    def remember(
        self,
        text: Sequence[Any],
        *,
        id: Sequence[str] | None = None,
        session: str | Sequence[str | None] | None = None,
        agent: str | Sequence[str | None] | None = None,
        role: str | Sequence[str | None] | None = None,
        occurred_at: datetime | Sequence[datetime | None] | None = None,
        metadata: Mapping[str, Scalar] | Sequence[Mapping[str, Scalar] | None] | None = None,
    ) -> builtins.list[str]: ...
    def remember(
        self,
        text: Any,
        *,
        id: str | Sequence[str] | None = None,  # noqa: A002 - the field's own name
        session: str | Sequence[str | None] | None = None,
        agent: str | Sequence[str | None] | None = None,
        role: str | Sequence[str | None] | None = None,
        occurred_at: datetime | Sequence[datetime | None] | None = None,
        metadata: Mapping[str, Scalar] | Sequence[Mapping[str, Scalar] | None] | None = None,
    ) -> str | builtins.list[str]:
        """Remember a text, or a list of strings, chat messages or documents, in one transaction.

        Args:
            text: what to remember, of any length.
            id: the caller's own id; the same id again replaces the memory. Without it each call is a new memory.
            session: the conversation it belongs to.
            agent: who remembers.
            role: who said it.
            occurred_at: when it happened; a naive datetime is taken as UTC.
            metadata: strings, numbers and booleans, for ``where``.

        Returns:
            The id, or the ids in order.

        Raises:
            EmptyText: a text is empty; nothing was written.
            InvalidArgument: an argument is malformed; nothing was written.
            ReadOnlyStore: the store was opened read-only.
        """
        if isinstance(text, Mapping) or not isinstance(text, Sequence):
            text, single = [text], True
        else:
            single = isinstance(text, str)
            text = [text] if single else text
        if single:
            id = None if id is None else [id] if isinstance(id, str) else id  # noqa: A001
        items = as_items(
            text, ids=id, session=session, agent=agent, role=role, occurred_at=occurred_at, metadata=metadata
        )
        ids = self._write(items)
        return ids[0] if single else ids

    def _write(self, items: Sequence[Item]) -> builtins.list[str]:
        records = []
        for item, chunks in zip(
            items, compress(self.codec, [item.text for item in items], self._keep_text), strict=True
        ):
            id_ = item.id if item.id is not None else uuid.uuid4().hex
            # A speaker's name is a word that people ask with.
            words = f"{item.role}: {item.text}" if item.role else item.text
            records.append(
                NewRecord(
                    id=id_,
                    payloads=[
                        chunk.payload.to_bytes(self._binding(id_, n)) for n, chunk in enumerate(chunks)
                    ],
                    vectors=torch.stack([chunk.vector for chunk in chunks]).numpy(),
                    terms=terms(words),
                    session=item.session,
                    agent=item.agent,
                    role=item.role,
                    occurred_at=item.occurred_at,
                    metadata=item.metadata,
                )
            )
        if records:
            self._store.put(self.name, records)
        return [record.id for record in records]

    def recall(
        self, query: str, k: int = 5, *, where: Where | None = None, ranking: Ranking = "hybrid"
    ) -> Hits:
        """The k memories that answer the query best.

        Args:
            query: a question or any text.
            k: at most this many.
            where: only memories that match, e.g. ``{"role": "user", "year": {"$gte": 2020}}``.
            ranking: ``"hybrid"`` (words, those of the neighbouring turns, latents), ``"latent"`` (the paper's
                task 3) or ``"lexical"`` (BM25).

        Raises:
            EmptyText: the query is empty.
            InvalidArgument: ``k``, ``where`` or ``ranking`` is malformed.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InvalidArgument(f"k must be a whole number of at least 1, not {k!r}")
        if ranking not in ("hybrid", "latent", "lexical"):
            raise InvalidArgument(f"ranking must be 'hybrid', 'latent' or 'lexical', not {ranking!r}")
        scores = dict(islice(self._scores(query, k, where, ranking).items(), k))
        records = self._store.records(self.name, list(scores))
        found = [(records[version], score) for version, score in scores.items() if version in records]
        batch = self._batch([record for record, _ in found])
        return Hits(
            [Hit(record, batch, i, score) for i, (record, score) in enumerate(found)], self.token_counter
        )

    def _recall_decoded(
        self, query: str, k: int = 5, *, where: Where | None = None, ranking: Ranking = "hybrid"
    ) -> Hits:
        """Recall with the texts decoded: reading them later would hold up the caller's event loop."""
        hits = self.recall(query, k, where=where, ranking=ranking)
        hits.decode()
        return hits

    def _scores(self, query: str, k: int, where: Where | None, ranking: Ranking) -> dict[int, Score]:
        chunks = self.codec.chunk(query)
        if not chunks:
            raise EmptyText("the query is empty; give a question or a text")
        lexical = context = latent = None
        if ranking != "lexical":
            vector = self.codec.pool(self.codec.encode(chunks)).mean(0).cpu().numpy()
            latent = dict(self._store.nearest(self.name, vector, max(_MIN_CANDIDATES, 4 * k), where))
        if ranking != "latent":
            versions, scores = bm25(self._store.postings(self.name, list(terms(query)), where))
            lexical = dict(zip(versions.tolist(), scores.tolist(), strict=True))
            if ranking == "hybrid":
                context = self._context(lexical, where)
        return fuse(lexical, context, latent)

    def _context(self, lexical: Mapping[int, float], where: Where | None) -> dict[int, float]:
        """For each memory beside a lexical candidate, the best score that stands beside it."""
        best = sorted(lexical, key=lexical.__getitem__, reverse=True)[:_MAX_SOURCES]
        context: dict[int, float] = {}
        for version, beside in self._store.neighbours(self.name, best, where).items():
            for neighbour in beside:
                context[neighbour] = max(context.get(neighbour, 0.0), lexical[version])
        return context

    def _binding(self, id: str, chunk: int) -> bytes:  # noqa: A002 - the field's own name
        return encode_binding(self.name, id, str(chunk))

    def _batch(self, records: Sequence[Record]) -> DecodeBatch:
        stored = self._store.payloads(self.name, [record.version for record in records])
        return DecodeBatch(
            [self._read(record, stored.get(record.version, [])) for record in records], self._decompress
        )

    def _read(self, record: Record, stored: Sequence[bytes]) -> builtins.list[Payload] | DamagedRecord:
        try:
            if len(stored) != record.n_chunks:
                raise PayloadError(f"{len(stored)} of its {record.n_chunks} chunks are there")
            return [Payload.from_bytes(data, self._binding(record.id, n)) for n, data in enumerate(stored)]
        except PayloadError as error:
            damaged = DamagedRecord(
                f"memory {record.id!r} in scope {self.name!r} is damaged: {error}. All other memories stay "
                f"readable; restore the folder from a copy, or give this one up with forget([{record.id!r}])"
            )
            damaged.__cause__ = error
            return damaged

    def _decompress(self, memories: Sequence[Sequence[Payload]]) -> builtins.list[DecompressedText]:
        return decompress(self.codec, memories)

    @overload
    def get(self, id: str) -> Memory: ...  # type: ignore[overload-overlap]  # a string is a sequence of strings
    @overload
    def get(self, id: Sequence[str]) -> builtins.list[Memory]: ...
    def get(self, id: str | Sequence[str]) -> Memory | builtins.list[Memory]:  # noqa: A002 - the field's own name
        """The memory of an id, or the memories of a list of ids in order.

        Raises:
            MemoryNotFound: there is none of this id in this scope.
        """
        records = self._store.get(self.name, [id] if isinstance(id, str) else id)
        batch = self._batch(records)
        memories = [Memory(record, batch, i) for i, record in enumerate(records)]
        return memories[0] if isinstance(id, str) else memories

    def list(self, *, where: Where | None = None, newest_first: bool = False) -> Iterator[Memory]:
        """All memories in the order they were written, or the newest first; texts are decoded page by page."""
        records = self._store.list(self.name, where, newest_first)
        while page := [*islice(records, _PAGE)]:
            batch = self._batch(page)
            yield from (Memory(record, batch, i) for i, record in enumerate(page))

    def count(self) -> int:
        """How many memories the scope holds."""
        return self._store.count(self.name)

    def forget(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> int:
        """Forget memories with all their versions, by ids or by filter; they leave every read path at once.

        Returns:
            How many memories were forgotten, counted from the records.

        Raises:
            MemoryNotFound: an id is unknown; then nothing is forgotten.
            InvalidArgument: neither or both of ``ids`` and ``where`` are given, or ``where`` is empty.
        """
        return self._store.forget(self.name, ids, where)

    def clear(self) -> int:
        """Forget everything in this scope, and in no other; returns how many memories that was."""
        return self._store.clear(self.name)

    def answer(
        self,
        question: str,
        *,
        model: Callable[[str], str] | None = None,
        k: int = 5,
        mode: Mode = "auto",
        max_tokens: int = 512,
        where: Where | None = None,
    ) -> Answer:
        """Answer a question from memory.

        Args:
            question: the question.
            model: any chat model as a function from prompt to reply. Without one the reply is the recalled sentence
                that fits best, word for word.
            k: memories to recall.
            mode: ``"decompress"`` gives memories as text; ``"inject"`` as latents, into the codec's own backbone
                (the paper's layout has one memory; of several the latents follow one another, best first);
                ``"auto"`` injects only where the codec can answer and no other model is given.
            max_tokens: budget of the memories' text in the prompt.
            where: only memories that match.

        Raises:
            CannotAnswer: ``mode="inject"`` with a codec that was not trained to answer, or with another model.
            DamagedRecord: a recalled memory's stored bytes no longer check out.
        """
        if mode not in ("auto", "decompress", "inject"):
            raise InvalidArgument(f"mode must be 'auto', 'decompress' or 'inject', not {mode!r}")
        if mode == "inject" and model is not None:
            raise CannotAnswer(
                "latents can be injected into the codec's own backbone only; "
                "leave model out, or give its prompt text with mode='decompress'"
            )
        inject = mode == "inject" or (mode == "auto" and model is None and self.codec.can_answer)
        hits = self.recall(question, k, where=where)
        if inject:
            return self._inject(question, hits)
        if model is None:
            text = best_sentence(question, hits)
            return Answer(text, hits, "decompress", "extract", self.token_counter()(text))
        memories = hits.as_prompt(max_tokens)
        reply = model(f"{memories}\n\nQuestion: {question}\nAnswer:")
        return Answer(reply, hits, "decompress", "model", self.token_counter()(memories))

    def _inject(self, question: str, hits: Hits) -> Answer:
        """Answer with all latents of the hits, best first, in the codec's own prompt layout."""
        rows = [hit.batch.latents(hit.index, self.codec) for hit in hits]
        together = torch.cat(rows) if rows else torch.zeros(0, self.codec.dim)
        latents = Latents(together[None], torch.tensor([len(together)]), self.codec.fingerprint)
        return Answer(self.codec.answer(latents, [question])[0], hits, "inject", "codec", len(together))

    def token_counter(self, model: str | None = None) -> TokenCounter:
        """What counts tokens for a model by name: tiktoken where it knows the model and has its file here, else the
        codec's tokenizer. ``source`` says which.
        """
        own = TokenCounter(f"codec:{self.codec.config.name}", self.codec.count_tokens)
        return token_counter(model, own)

    aremember = async_twin(remember)
    arecall = async_twin(_recall_decoded)
    aget = async_twin(get)
    alist = async_iterator_twin(list)  # noqa: A003 - the method is meant
    acount = async_twin(count)
    aforget = async_twin(forget)
    aclear = async_twin(clear)
    aanswer = async_twin(answer)
