"""What callers hand to ``remember``, as plain items: strings, chat messages, documents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

from nextmem_agents.codec.tokens import check_text
from nextmem_agents.errors import EmptyText, InvalidArgument, MemoryRefused
from nextmem_agents.store.records import Scalar

ROLES = {
    "human": "user",
    "ai": "assistant",
    "HumanMessageChunk": "user",
    "AIMessageChunk": "assistant",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
    "FunctionMessageChunk": "function",
}
"""LangChain's message types, streamed ones too, by the names that chat APIs and LlamaIndex use."""


@dataclass(frozen=True)
class Item:
    """One text to remember, with what is known about it; see ``Scope.remember`` for each field.

    Attributes:
        scope: the name of the scope that it is to be written to.
    """

    text: str
    id: str | None
    session: str | None
    agent: str | None
    role: str | None
    occurred_at: datetime | None
    metadata: Mapping[str, Scalar]
    life: Life
    scope: str = ""


OnRemember: TypeAlias = Callable[[Item], Item | None]
"""Called with each item before anything is written. It gives back the item, as it is or changed
(``dataclasses.replace(item, metadata={**item.metadata, "checked": True})``), or None to refuse it."""


@dataclass(frozen=True)
class Life:
    """When a memory holds and goes, how much it matters, and where it comes from; see ``Scope.remember``."""

    expires_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    importance: float | None = None
    written_by: str | None = None
    derived_from: str | None = None
    supersedes: str | None = None


def as_items(
    texts: Sequence[Any],
    *,
    ids: Sequence[str] | None,
    session: str | Sequence[str | None] | None,
    agent: str | Sequence[str | None] | None,
    role: str | Sequence[str | None] | None,
    occurred_at: datetime | Sequence[datetime | None] | None,
    metadata: Mapping[str, Scalar] | Sequence[Mapping[str, Scalar] | None] | None,
    **life: Any,
) -> list[Item]:
    """One item per text; each other argument is one value for all, or a list of the same length.

    A text is a string, a chat message (a mapping with ``role`` and ``content``, or an object with ``content`` and
    ``type`` or ``role``) or a document (an object with ``page_content`` or ``text`` and ``metadata``). A message's
    own role counts where no role is given; a document's metadata is joined with the given one, which wins. ``life``
    are the fields of :class:`Life`, likewise.

    Raises:
        EmptyText: a text is empty.
        InvalidArgument: another kind of object, or a list of another length.
    """
    n = len(texts)
    spread = {name: _spread(name, value, n) for name, value in life.items()}
    return [
        _item(i, text, Life(**{name: each[i] for name, each in spread.items()}), *values)
        for i, (text, *values) in enumerate(
            zip(
                texts,
                _spread("id", ids, n),
                _spread("session", session, n),
                _spread("agent", agent, n),
                _spread("role", role, n),
                _spread("occurred_at", occurred_at, n),
                _spread("metadata", metadata, n),
                strict=True,
            )
        )
    ]


def admit(items: Sequence[Item], scope: str, hooks: Sequence[OnRemember]) -> list[Item]:
    """The items as the hooks let them through, each hook seeing what the one before it gave.

    Raises:
        MemoryRefused: a hook gave None.
        EmptyText: a hook left nothing of a text.
        InvalidArgument: a hook gave something else.
    """
    admitted = []
    for i, item in enumerate(items):
        for hook in hooks:
            given = hook(replace(item, scope=scope))
            if given is None:
                raise MemoryRefused(
                    f"on_remember refused text {i} for scope {scope!r} (it gave None); nothing was written. A hook "
                    "gives back the item to let it through"
                )
            if not isinstance(given, Item) or given.scope != scope:
                raise InvalidArgument(
                    f"on_remember gives back the item for the same scope, or None; for text {i} it gave {given!r:.80}"
                )
            item = given
        check_text(item.text)
        if not item.text:
            raise EmptyText(f"on_remember left nothing of text {i}; to refuse it, give None")
        admitted.append(item)
    return admitted


def check_hook(hook: OnRemember | None) -> tuple[OnRemember, ...]:
    """A hook, or none.

    Raises:
        InvalidArgument: it is no plain function.
    """
    if hook is None:
        return ()
    if not callable(hook) or inspect.iscoroutinefunction(hook):
        raise InvalidArgument(
            f"on_remember is a plain function, which async methods call in their worker thread, not {hook!r:.80}"
        )
    return (hook,)


def _spread(name: str, value: Any, n: int) -> list[Any]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        if name == "id" and value is not None:
            raise InvalidArgument("several texts need a list of ids, one each")
        return [value] * n
    if len(value) != n:
        raise InvalidArgument(f"{n} texts were given with {len(value)} values of {name}; give one, or {n}")
    return list(value)


def _item(
    i: int,
    source: Any,
    life: Life,
    id: str | None,  # noqa: A002 - the field's own name
    session: str | None,
    agent: str | None,
    role: str | None,
    occurred_at: datetime | None,
    metadata: Mapping[str, Scalar] | None,
) -> Item:
    text, own_role, own_metadata = _parts(i, source)
    check_text(text)
    if not text:
        raise EmptyText(f"text {i} is empty; there is nothing to remember")
    merged = {**own_metadata, **(metadata or {})}
    return Item(text, id, session, agent, role if role is not None else own_role, occurred_at, merged, life)


def _parts(i: int, source: Any) -> tuple[str, str | None, Mapping[str, Scalar]]:
    if isinstance(source, str):
        return source, None, {}
    if isinstance(source, Mapping) and isinstance(source.get("content"), str):
        return source["content"], source.get("role"), {}
    for attribute in ("page_content", "text", "content"):
        text = getattr(source, attribute, None)
        if isinstance(text, str):
            own_role = getattr(source, "role", None) or getattr(source, "type", None)
            if hasattr(source, "content") or hasattr(source, "role"):
                name = str(getattr(own_role, "value", own_role)) if own_role else None
                return text, ROLES.get(name, name) if name else None, {}
            return text, None, dict(getattr(source, "metadata", None) or {})
    raise InvalidArgument(
        f"item {i} is a {type(source).__name__}; remember takes strings, chat messages with text content, or documents"
    )
