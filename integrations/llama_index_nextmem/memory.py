"""``NextMemMemory``: a chat memory that remembers every turn for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, InsertMethod, Memory
from pydantic import Field

from llama_index_nextmem.block import NextMemMemoryBlock
from llama_index_nextmem.scopes import scope_of
from llama_index_nextmem.turns import turns
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope
from nextmem_agents.store.clock import utc_now


class NextMemMemory(Memory):
    """LlamaIndex's ``Memory`` over one scope, for ``FunctionAgent``, ``ReActAgent``, ``SimpleChatEngine`` and the like.

    What the user and the assistant say is remembered when it is said, under ``session_id``; requests for tools and
    their replies are not. What fits the user's last message, of this and of all other sessions, stands quoted at the
    head of that message, where the model alone sees it: the history keeps the message as it was, and so what was
    recalled is never remembered in its turn. Build it with :meth:`from_defaults`.

    ``set`` gives the chat another history, which is not remembered, since nobody says it now; ``reset`` empties the
    history and leaves memory as it is. ``memory.scope.forget(...)`` and ``.clear()`` forget.

    Attributes:
        scope: what is read and written.

    ::

        memory = NextMemMemory.from_defaults(store.scope("ann"), session_id="monday")
        await FunctionAgent(tools=tools, llm=llm).run("I moved to Lisbon.", memory=memory)
    """

    scope: Scope = Field(exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for it."""
        return "NextMemMemory"

    @classmethod
    def from_defaults(  # type: ignore[override]  # as Memory's own does BaseMemory's
        cls,
        memory: NextMem | Scope | None = None,
        *,
        k: int = 5,
        max_tokens: int | None = 512,
        where: Mapping[str, Any] | None = None,
        recall_options: Mapping[str, Any] | None = None,
        mode: Literal["decompress", "inject"] = "decompress",
        memory_blocks: list[BaseMemoryBlock[Any]] | None = None,
        insert_method: InsertMethod = InsertMethod.USER,
        **settings: Any,
    ) -> NextMemMemory:
        """A memory over a scope.

        Args:
            memory: a scope; or a store, for its scope ``default``; the default store if left out.
            k: at most so many memories are recalled.
            max_tokens: at most so many tokens of them go into the prompt.
            where: recalls only memories that match.
            recall_options: whatever else ``Scope.recall`` takes.
            mode: see :class:`NextMemMemoryBlock`.
            memory_blocks: others beside it.
            insert_method: where blocks of text go; recalled memory is data and belongs into no system message.
            **settings: of ``Memory.from_defaults``: ``session_id``, ``chat_history``, ``token_limit`` …
        """
        scope = scope_of(memory)
        block = NextMemMemoryBlock(
            memory=scope,
            k=k,
            max_tokens=max_tokens,
            where=where,
            recall_options=recall_options or {},
            mode=mode,
            accept_short_term_memory=False,  # all of it has been remembered when it was said
        )
        plain = Memory.from_defaults(
            memory_blocks=[block, *(memory_blocks or [])], insert_method=insert_method, **settings
        )
        return cls(scope=scope, **{name: getattr(plain, name) for name in Memory.model_fields})

    async def aput(self, message: ChatMessage) -> None:
        """Remember a message and add it to the history."""
        await self._remember([message])
        await super().aput(message)

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Remember messages, in one transaction, and add them to the history."""
        await self._remember(messages)
        await super().aput_messages(messages)

    async def _remember(self, messages: list[ChatMessage]) -> None:
        if said := turns(messages):
            await self.scope.aremember(
                [turn.text for turn in said],
                role=[turn.role for turn in said],
                session=self.session_id,
                occurred_at=utc_now(),
            )
