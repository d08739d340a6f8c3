"""``NextMemChatMessageHistory``: one session's messages, word for word and in order, for what takes a chat history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict

from langchain_nextmem.scopes import scope_of
from langchain_nextmem.turns import well_formed
from nextmem_agents.errors import DamagedRecord, InvalidArgument
from nextmem_agents.items import ROLES
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Memory
from nextmem_agents.scope import Scope

_MESSAGE = "langchain_message"


class NextMemChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session: what a chat shows again, beside what it recalls.

    Each message is a memory of the scope, under its session, so what was said here can be recalled from everywhere.
    A message's text is the memory's; what else it holds (tool calls, names, ids, blocks of content) is kept beside it.
    Messages without text are kept too; lone surrogates become U+FFFD.

    Args:
        session_id: the conversation.
        memory: a store (``user_id`` then names the scope), or the scope itself; by default the default store.
        user_id: whose; None for the scope ``default``.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     history = NextMemChatMessageHistory("s1", store, user_id="alice")
        ...     history.add_user_message("I moved to Lisbon.")
        ...     history.add_ai_message("How nice!")
        ...     [(message.type, message.text) for message in history.messages]
        [('human', 'I moved to Lisbon.'), ('ai', 'How nice!')]
    """

    def __init__(
        self, session_id: str, memory: NextMem | Scope | None = None, *, user_id: str | None = None
    ) -> None:
        if not isinstance(session_id, str) or not session_id:
            raise InvalidArgument(f"session_id is a string that names the conversation, not {session_id!r}")
        self.session_id = session_id
        self.scope = scope_of(NextMem.open() if memory is None else memory, user_id)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # an attribute there, computed here
        """All of the session's messages, oldest first.

        Raises:
            DamagedRecord: the stored bytes of one no longer check out.
        """
        return messages_from_dict([_read(memory) for memory in self._memories()])

    def _memories(self) -> list[Memory]:
        found = self.scope.list(where={"session": self.session_id})
        return [memory for memory in found if _MESSAGE in memory.metadata]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Remember messages, in one transaction."""
        written = [_written(message) for message in messages]
        self.scope.remember(
            [text for text, _ in written],
            role=[ROLES.get(message.type, message.type) for message in messages],
            session=self.session_id,
            occurred_at=datetime.now(timezone.utc),
            metadata=[{_MESSAGE: rest} for _, rest in written],
        )

    def clear(self) -> None:
        """Forget this session's messages, and nothing else of the scope."""
        if ids := [memory.id for memory in self._memories()]:
            self.scope.forget(ids)


def _written(message: BaseMessage) -> tuple[str, str]:
    """The text that is remembered, and all else, as JSON."""
    kept = message_to_dict(message)
    content = kept["data"]["content"]
    text = well_formed(str(message.text))
    if text.strip() and isinstance(content, str):
        del kept["data"]["content"]
    if not text.strip():
        text = f"({message.type} message without text)"
    return text, well_formed(json.dumps(kept, ensure_ascii=False))


def _read(memory: Memory) -> dict[str, object]:
    kept: dict[str, dict[str, object]] = json.loads(str(memory.metadata[_MESSAGE]))
    if "content" not in kept["data"]:
        text = memory.text
        if not memory.exact:
            raise DamagedRecord(
                f"the message {memory.id!r} does not come back exactly; forget it, or restore a copy"
            )
        kept["data"]["content"] = text
    return dict(kept)
