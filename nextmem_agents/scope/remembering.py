"""Writing into a scope: new memories, and new versions of old ones."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, overload

from nextmem_agents.asynchronous import async_twin
from nextmem_agents.codec.worker import current_caller
from nextmem_agents.errors import DamagedRecord, InvalidArgument, Overtaken
from nextmem_agents.items import Item, Life, admit, as_items
from nextmem_agents.observability import observed
from nextmem_agents.recall.hits import Memory
from nextmem_agents.scope.reading import Reading
from nextmem_agents.scope.writing import (
    changes,
    check_threshold,
    encode_items,
    expiry,
    last_moment,
    put_unlike,
    seal_items,
)
from nextmem_agents.store.checks import check_id
from nextmem_agents.store.records import Scalar


class Remembering(Reading):
    """The writing methods of a :class:`~nextmem_agents.Scope`."""

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
    @observed("remember", items=lambda ids, *_, **__: 1 if isinstance(ids, str) else len(ids))
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
            near_duplicates: likewise where a memory of the same session has an index vector of at least this similarity
                (cosine, up to 1). Texts that differ in one number are similar too, so it is off by default.
            ttl: how long it lives, a timedelta or seconds; see ``expires_at``.
            life: of a memory's life, each one value or a list: ``expires_at`` (from then on it is gone from every
                read), ``valid_from`` and ``valid_to`` (when it holds; what is to begin later is found at once, but by
                reads ``as_of`` a time), ``importance`` (0..1), ``written_by`` and
                ``derived_from`` (who wrote it, and from what), ``supersedes`` (id of a memory that it replaces).

        Returns:
            The id, or the ids in order.

        Raises:
            EmptyText: a text is empty; nothing was written.
            InvalidArgument: an argument is malformed; nothing was written.
            MemoryNotFound: a memory to supersede does not exist; nothing was written.
            MemoryRefused: the application's ``on_remember`` refused a text; nothing was written.
            ReadOnlyStore: the store was opened read-only.
        """
        single = isinstance(text, str | bytes | bytearray | Mapping) or not isinstance(text, Sequence)
        if single:
            text = [text]
            id = id if id is None or _is_list(id) else [id]  # type: ignore[list-item]  # noqa: A001
        check_life(life)
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
        ids = self._write(items, bool(dedupe), threshold)
        return ids[0] if single else ids

    def _write(
        self,
        items: Sequence[Item],
        fold: bool = False,
        threshold: float | None = None,
        former: int | None = None,
    ) -> builtins.list[str]:
        items = admit(items, self.name, self._on_remember)
        for item in items:
            if item.id is not None:
                check_id(item.id)
        encoded = encode_items(items, self.codec, self._keep_text, self._embedder)
        with self._sealing() as vault:
            if (caller := current_caller()) is not None and caller.cancelled:
                raise CancelledError
            return put_unlike(self._store, self.name, seal_items(encoded, vault, fold, former), threshold)

    @observed("update", items=lambda *_, **__: 1)
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
                ``as_of`` see the old version. A change that is yet to come about is best written when it does: other
                reads see it at once.

        Returns:
            The memory as it is now.

        Raises:
            MemoryNotFound: there is none of this id, or none any more.
            DamagedRecord: no text is given, and the present one cannot be decoded exactly.
        """
        id = check_id(id)  # noqa: A001
        check_life(life)
        given = {
            "session": session,
            "agent": agent,
            "role": role,
            "occurred_at": occurred_at,
            "metadata": metadata,
        }
        life["expires_at"] = expiry(life.get("expires_at"), ttl)
        while True:
            former = self.get(id)
            try:
                self._write([_updated(former, text, given, life)], former=former.record.version)
            except Overtaken:
                continue
            return self.get(id)

    def expire(
        self,
        memories: Memory | Sequence[Memory],
        *,
        expires_at: datetime | None = None,
        ttl: timedelta | float | None = None,
    ) -> int:
        """Set when memories expire, and nothing else: no new version, no new time of writing; returns how many.

        Args:
            memories: as they were read; one that was changed or forgotten since, or has expired, is let be.
            expires_at: from then on they are gone from every read.
            ttl: in its place, how long they live from now on, a timedelta or seconds.

        Raises:
            InvalidArgument: not one of ``expires_at`` and ``ttl`` is given, or it is malformed.
            ReadOnlyStore: the store was opened read-only.
        """
        when = expiry(expires_at, ttl)
        if when is None:
            raise InvalidArgument("give expires_at or ttl")
        memories = [memories] if isinstance(memories, Memory) else memories
        return self._store.expire(self.name, {memory.record.version: when for memory in memories})

    aremember = async_twin(remember)
    aupdate = async_twin(update)
    aexpire = async_twin(expire)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def check_life(life: Mapping[str, Any]) -> None:
    """Raise ``InvalidArgument`` for what is no part of a memory's life."""
    if unknown := life.keys() - {field.name for field in fields(Life)}:
        raise InvalidArgument(
            f"remember takes no {min(unknown)!r}; what else is known belongs in metadata={{}}"
        )


def _updated(former: Memory, text: str | None, given: Mapping[str, Any], life: Mapping[str, Any]) -> Item:
    """A new version of a memory: what is given, and the rest as it was."""
    if text is None:
        text = former.text
        if not former.exact:
            raise DamagedRecord(
                f"the text of memory {former.id!r} does not come back exactly; give a text to update it"
            )
    record = former.record
    named = changes(given, {name: getattr(record, name) for name in given})
    kept = changes(life, {"importance": record.importance, "expires_at": record.expires_at})
    ends = {"valid_to": last_moment(record.valid_to)}
    [item] = as_items([text], ids=[former.id], **named, **ends | {**life} | kept)
    return item
