"""``Scope``: everything one user or tenant remembers."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, overload

from nextmem_agents.asynchronous import async_iterator_twin, async_twin
from nextmem_agents.codec.exact import DecompressedText, decompress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CannotAnswer, DamagedRecord, InvalidArgument
from nextmem_agents.items import Life, as_items
from nextmem_agents.quantization import Payload
from nextmem_agents.recall.budget import TokenCounter, token_counter
from nextmem_agents.recall.hits import DecodeBatch, Hit, Hits, Memory
from nextmem_agents.scope.answering import Answer, Mode, answer_from_latents, answer_from_text
from nextmem_agents.scope.decay import Decay
from nextmem_agents.scope.searching import Ranking, check_ranking, fade, score_memories
from nextmem_agents.scope.transfer import export_scope, import_scope
from nextmem_agents.scope.vault import Vault
from nextmem_agents.scope.writing import as_records, changes, check_threshold, expiry, last_moment, put_unlike
from nextmem_agents.store.keys import KeyRing
from nextmem_agents.store.records import Receipt, Record, Scalar, Store, Where

_PAGE = 64  # memories decoded together when all are listed


class Scope:
    """Everything one user or tenant remembers; made by :meth:`NextMem.scope`.

    Reads and writes of one scope never see another's. Every method has an async twin with an ``a`` before its name.
    What has expired is never returned; what was replaced is returned by :meth:`history` and by reads ``as_of`` a
    time when it held.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        codec: LatentCodec,
        keep_text: bool | None = None,
        keys: KeyRing | None = None,
        encrypted: bool = False,
    ):
        self.name = name
        self._store = store
        self.codec = codec
        self._keep_text = keep_text
        self._keys = keys
        self._encrypt = encrypted

    def __repr__(self) -> str:
        return f"Scope({self.name!r})"

    @property
    def encrypted(self) -> bool:
        """Whether payloads are encrypted under this scope's own key, and no lexical index is kept."""
        return self._vault().encrypted or self._encrypt

    def _vault(self, writing: bool = False) -> Vault:
        key = None if self._keys is None else self._keys.get(self.name)
        if key is None and writing and self._encrypt and self._keys is not None:
            key = self._keys.make(self.name)
        return Vault(self.name, key)

    @overload
    def remember(
        self,
        /,
        text: str,
        *,
        id: str | None = None,
        session: str | None = None,
        agent: str | None = None,
        role: str | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        dedupe: bool = False,
        near_duplicates: float | None = None,
        ttl: timedelta | float | None = None,
        **life: Any,
    ) -> str: ...
    @overload
    def remember(
        self,
        /,
        text: Sequence[Any],
        *,
        id: Sequence[str] | None = None,
        session: str | Sequence[str | None] | None = None,
        agent: str | Sequence[str | None] | None = None,
        role: str | Sequence[str | None] | None = None,
        occurred_at: datetime | Sequence[datetime | None] | None = None,
        metadata: Mapping[str, Scalar] | Sequence[Mapping[str, Scalar] | None] | None = None,
        dedupe: bool = False,
        near_duplicates: float | None = None,
        ttl: timedelta | float | None = None,
        **life: Any,
    ) -> builtins.list[str]: ...
    def remember(
        self,
        /,
        text: Any,
        *,
        id: str | Sequence[str] | None = None,  # noqa: A002 - the field's own name
        session: str | Sequence[str | None] | None = None,
        agent: str | Sequence[str | None] | None = None,
        role: str | Sequence[str | None] | None = None,
        occurred_at: datetime | Sequence[datetime | None] | None = None,
        metadata: Mapping[str, Scalar] | Sequence[Mapping[str, Scalar] | None] | None = None,
        dedupe: bool = False,
        near_duplicates: float | None = None,
        ttl: timedelta | float | None = None,
        **life: Any,
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
            dedupe: write nothing where a memory of the same session has the same text and role; its id is returned.
            near_duplicates: likewise where a memory of the same session has latents of at least this similarity
                (cosine, up to 1). Texts that differ in one number are similar too, so it is off by default.
            ttl: how long it lives, a timedelta or seconds; see ``expires_at``.
            life: of a memory's life, each one value or a list: ``expires_at`` (from then on it is gone from every
                read), ``valid_from`` and ``valid_to`` (when it holds), ``importance`` (0..1), ``written_by`` and
                ``derived_from`` (who wrote it, and from what), ``supersedes`` (id of a memory that it replaces).

        Returns:
            The id, or the ids in order.

        Raises:
            EmptyText: a text is empty; nothing was written.
            InvalidArgument: an argument is malformed; nothing was written.
            MemoryNotFound: a memory to supersede does not exist; nothing was written.
            ReadOnlyStore: the store was opened read-only.
        """
        if isinstance(text, Mapping) or not isinstance(text, Sequence):
            text, single = [text], True
        else:
            single = isinstance(text, str)
            text = [text] if single else text
        if single:
            id = None if id is None else [id] if isinstance(id, str) else id  # noqa: A001
        known = {field.name for field in fields(Life)}
        if unknown := life.keys() - known:
            raise InvalidArgument(
                f"remember takes no {min(unknown)!r}; what else is known belongs in metadata={{}}"
            )
        life["expires_at"] = expiry(life.get("expires_at"), ttl)
        items = as_items(
            text,
            ids=id,
            session=session,
            agent=agent,
            role=role,
            occurred_at=occurred_at,
            metadata=metadata,
            **life,
        )
        threshold = check_threshold(near_duplicates)
        if not items:
            return []
        records = as_records(items, self.codec, self._vault(writing=True), self._keep_text, bool(dedupe))
        ids = put_unlike(self._store, self.name, records, threshold)
        return ids[0] if single else ids

    def update(
        self,
        /,
        id: str,  # noqa: A002 - the field's own name
        text: str | None = None,
        *,
        session: str | None = None,
        agent: str | None = None,
        role: str | None = None,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        ttl: timedelta | float | None = None,
        **life: Any,
    ) -> Memory:
        """Write a new version of a memory; what is not given stays, and the old version goes to :meth:`history`.

        Args:
            id: the memory.
            text: its new text.
            session, agent, role, occurred_at, metadata: as in :meth:`remember`; ``metadata`` replaces all of it.
            ttl: how long it lives from now on.
            life: as in :meth:`remember`; ``written_by`` and ``derived_from`` say who changed it and from what, and
                are not taken over. ``valid_from`` is when the change came about (by default, now): until then, reads
                ``as_of`` see the old version.

        Returns:
            The memory as it is now.

        Raises:
            MemoryNotFound: there is none of this id.
            DamagedRecord: no text is given, and the present one cannot be decoded exactly.
        """
        former = self.get(id)
        if text is None:
            text = former.text
            if not former.exact:
                raise DamagedRecord(
                    f"the text of memory {id!r} does not come back exactly; give a text to update it"
                )
        record = former.record
        given = {
            "session": session,
            "agent": agent,
            "role": role,
            "occurred_at": occurred_at,
            "metadata": metadata,
        }
        named = changes(given, {name: getattr(record, name) for name in given})
        kept = {"importance": record.importance, "expires_at": record.expires_at}
        life["expires_at"] = expiry(life.get("expires_at"), ttl)
        life |= changes(life, kept)
        life.setdefault("valid_to", last_moment(record.valid_to))
        self.remember(text, id=id, **named, **life)
        return self.get(id)

    def history(self, id: str) -> builtins.list[Memory]:  # noqa: A002 - the field's own name
        """All versions of a memory, oldest first, the present one last; their texts are decoded together.

        Raises:
            MemoryNotFound: there is none of this id in this scope.
        """
        return self._memories(self._store.history(self.name, id))

    def recall(
        self,
        query: str,
        k: int = 5,
        *,
        where: Where | None = None,
        ranking: Ranking = "hybrid",
        as_of: datetime | None = None,
        decay: Decay | None = None,
    ) -> Hits:
        """The k memories that answer the query best.

        Args:
            query: a question or any text.
            k: at most this many.
            where: only memories that match, e.g. ``{"role": "user", "year": {"$gte": 2020}}``.
            ranking: ``"hybrid"`` (words, those of the neighbouring turns, latents), ``"latent"`` (the paper's
                task 3) or ``"lexical"`` (BM25). An encrypted scope keeps no words: there hybrid is latent.
            as_of: search what held at this time, with the texts of then; by default, what holds now.
            decay: rank down what was not recalled for long; such a recall is itself noted, and strengthens.

        Raises:
            EmptyText: the query is empty.
            InvalidArgument: ``k``, ``where``, ``ranking`` or ``as_of`` is malformed.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InvalidArgument(f"k must be a whole number of at least 1, not {k!r}")
        chosen = check_ranking(ranking, self.encrypted)
        scores = score_memories(self._store, self._vault(), self.codec, query, k, where, chosen, as_of)
        if decay is not None:
            scores = fade(self._store, self.name, scores, k, decay)
        scores = dict(islice(scores.items(), k))
        records = self._store.records(self.name, list(scores))
        found = [(records[version], score) for version, score in scores.items() if version in records]
        if decay is not None and as_of is None:
            self._store.touch(self.name, [record.version for record, _ in found])
        batch = self._batch([record for record, _ in found])
        return Hits(
            [Hit(record, batch, i, score) for i, (record, score) in enumerate(found)], self.token_counter
        )

    def _recall_decoded(
        self,
        query: str,
        k: int = 5,
        *,
        where: Where | None = None,
        ranking: Ranking = "hybrid",
        as_of: datetime | None = None,
        decay: Decay | None = None,
    ) -> Hits:
        """Recall with the texts decoded: reading them later would hold up the caller's event loop."""
        hits = self.recall(query, k, where=where, ranking=ranking, as_of=as_of, decay=decay)
        hits.decode()
        return hits

    def _batch(self, records: Sequence[Record]) -> DecodeBatch:
        stored = self._store.payloads(self.name, [record.version for record in records])
        vault = self._vault()
        return DecodeBatch(
            [vault.read(record, stored.get(record.version, [])) for record in records], self._decompress
        )

    def _memories(self, records: Sequence[Record]) -> builtins.list[Memory]:
        batch = self._batch(records)
        return [Memory(record, batch, i) for i, record in enumerate(records)]

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
        memories = self._memories(self._store.get(self.name, [id] if isinstance(id, str) else id))
        return memories[0] if isinstance(id, str) else memories

    def list(
        self,
        *,
        where: Where | None = None,
        newest_first: bool = False,
        limit: int | None = None,
        after: str | None = None,
        as_of: datetime | None = None,
    ) -> Iterator[Memory]:
        """All memories in the order they were written, or the newest first; texts are decoded page by page.

        Args:
            where: only memories that match.
            newest_first: the other way round.
            limit: at most this many: a page.
            after: the id of the last memory of the page before.
            as_of: what held at this time, as it was then.

        Raises:
            MemoryNotFound: there is no memory ``after`` (any more).
        """
        records = self._store.list(self.name, where, newest_first, limit, after, as_of)
        return self._listed(records)

    def _listed(self, records: Iterator[Record]) -> Iterator[Memory]:
        while page := [*islice(records, _PAGE)]:
            yield from self._memories(page)

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

    def erase(self) -> Receipt:
        """Forget everything in this scope and remove its bytes, and its key if it is encrypted.

        Where the files are this process's own, each is read to its end to prove that nothing is left; the receipt
        says what was proven and what cannot be. An erasure that is interrupted is finished by the next opening.

        Raises:
            StoreError: something is left, or another process holds the files; it says what to do.
        """
        receipt = self._store.erase(self.name)
        if self._keys is not None and self._keys.erase(self.name):
            return replace(receipt, key_erased=True)
        return receipt

    def export(self, path: str | Path) -> int:
        """Write the scope with its history to a file (JSON lines, checksummed); returns how many versions.

        The file is readable by whoever has it, an encrypted scope's too.

        Raises:
            DataError: the file cannot be written.
            PayloadError: a memory is damaged; :meth:`NextMem.verify` lists such.
        """
        return export_scope(self._store, self._vault(), self.codec, Path(path))

    def import_(self, path: str | Path, *, skip_existing: bool = False) -> int:
        """Add what :meth:`export` wrote, from this or another scope, all or nothing; returns how many memories.

        Raises:
            CodecMismatch: another codec wrote it.
            DataError: the file is missing, cut off or altered; nothing was imported.
            InvalidArgument: an id is there already, and ``skip_existing`` is False.
            NewerFormat: a newer version wrote it.
        """
        return import_scope(
            self._store, self._vault(writing=True), self.codec, Path(path), skip_existing=skip_existing
        )

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
            return answer_from_latents(question, hits, self.codec)
        return answer_from_text(question, hits, model, max_tokens, self.token_counter())

    def token_counter(self, model: str | None = None) -> TokenCounter:
        """What counts tokens for a model by name: tiktoken where it knows the model and has its file here, else the
        codec's tokenizer. ``source`` says which.
        """
        own = TokenCounter(f"codec:{self.codec.config.name}", self.codec.count_tokens)
        return token_counter(model, own)

    aremember = async_twin(remember)
    aupdate = async_twin(update)
    ahistory = async_twin(history)
    arecall = async_twin(_recall_decoded)
    aget = async_twin(get)
    alist = async_iterator_twin(list)  # noqa: A003 - the method is meant
    acount = async_twin(count)
    aforget = async_twin(forget)
    aclear = async_twin(clear)
    aerase = async_twin(erase)
    aexport = async_twin(export)
    aimport_ = async_twin(import_)
    aanswer = async_twin(answer)
