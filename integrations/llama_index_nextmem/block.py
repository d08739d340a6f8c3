"""``NextMemMemoryBlock``: a scope as a block of LlamaIndex's ``Memory``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemoryBlock
from pydantic import AfterValidator, ConfigDict, Field, field_serializer, field_validator

from llama_index_nextmem.injection import memory_message
from llama_index_nextmem.scopes import scope_of
from llama_index_nextmem.turns import turns
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Hits
from nextmem_agents.scope import Scope
from nextmem_agents.scope.options import check_options

# A memory's own lines are quoted, so that none of them can look like the next memory.
_NEXT_MEMORY = re.compile(r"\n(?=\[\d+\] )")


class NextMemMemoryBlock(BaseMemoryBlock[Any]):
    """Recalls from one scope what fits the user's last message, and remembers what the chat's buffer lets go.

    LlamaIndex hands a block only those messages that no longer fit the buffer; :class:`NextMemMemory` remembers every
    turn at once. What the model has before it anyway is not recalled.

    Recalled memory is data, so give it no system role: ``Memory.from_defaults(memory_blocks=[...],
    insert_method=InsertMethod.USER)``.

    Attributes:
        memory: a scope; or a store, for its scope ``default``; the default store if left out.
        k: at most so many memories.
        max_tokens: at most so many tokens of them.
        where: only memories that match, e.g. ``{"session": {"$ne": "s1"}}``.
        recall_options: whatever else ``Scope.recall`` takes, e.g. ``{"trusted_only": True}``.
        mode: ``"decompress"`` gives quoted text; ``"inject"`` a message that carries the memories' ids, for
            :class:`NextMemLLM` to put their latents in its place.
        priority: when all blocks and the history exceed the memory's limit, blocks of a low number are shortened
            first, 0 never. Here, the last memories go first.

    Examples:
        >>> with NextMem.open(":memory:") as store:
        ...     _ = store.scope("ann").remember("I moved to Lisbon.", role="user")
        ...     block = NextMemMemoryBlock(memory=store.scope("ann"))
        ...     print(asyncio.run(block.aget([ChatMessage("Where did I move?")])).split("\\n", 1)[1])
        [1] user:
        > I moved to Lisbon.
    """

    # A misspelt argument must not silently do without.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    name: str = "NextMem"
    priority: int = 1
    memory: NextMem | Scope = Field(default_factory=lambda: NextMem.open())
    k: int = 5
    max_tokens: int | None = 512
    where: Mapping[str, Any] | None = None
    recall_options: Annotated[Mapping[str, Any], AfterValidator(check_options)] = Field(default_factory=dict)
    mode: Literal["decompress", "inject"] = "decompress"

    @field_serializer("memory")
    def _named(self, memory: NextMem | Scope) -> str:
        return scope_of(memory).name

    @field_validator("memory", mode="before")
    @classmethod
    def _not_by_name(cls, memory: Any) -> Any:
        if isinstance(memory, str):
            raise ValueError(
                f"a name is no memory: pass the scope {memory!r} again, memory=store.scope({memory!r})"
            )
        return memory

    @property
    def scope(self) -> Scope:
        """What is read and written."""
        return scope_of(self.memory)

    async def _aget(
        self,
        messages: list[ChatMessage] | None = None,
        **block_kwargs: Any,  # noqa: ARG002 - LlamaIndex's form
    ) -> str | list[ChatMessage]:
        return await asyncio.to_thread(self._recalled, messages or [])

    async def _aput(self, messages: list[ChatMessage]) -> None:
        said = [
            (turn, message.additional_kwargs.get("session_id"))
            for message in messages
            for turn in turns([message])
        ]
        if said:
            await self.scope.aremember(
                [turn.text for turn, _ in said],
                role=[turn.role for turn, _ in said],
                session=[session for _, session in said],
            )

    async def atruncate(
        self, content: str | list[ChatMessage], tokens_to_truncate: int
    ) -> str | list[ChatMessage] | None:
        """Whole memories fewer, from the last one on, until so many tokens are saved; None where none is left."""
        if not isinstance(content, str):
            return None
        count = self.scope.token_counter()
        heading, *memories = _NEXT_MEMORY.split(content)
        too_many = count(content) - tokens_to_truncate
        while memories and count("\n".join([heading, *memories])) > too_many:
            memories.pop()
        return "\n".join([heading, *memories]) if memories else None

    def _recalled(self, messages: Sequence[ChatMessage]) -> str | list[ChatMessage]:
        said = turns(messages)
        asked = [turn.text for turn in said if turn.role == MessageRole.USER.value]
        if not asked:
            return ""
        hits = self._unseen(asked[-1], {turn.text for turn in said})
        if self.mode == "decompress":
            return hits.as_prompt(self.max_tokens)
        ids = [hit.id for hit in hits]
        return [memory_message(self.scope, ids)] if ids else []

    def _unseen(self, question: str, seen: set[str]) -> Hits:
        # The question itself, just remembered, answers it best; so more is asked for than is wanted.
        scope, n = self.scope, self.k + 1
        while True:
            hits = scope.recall(question, n, where=self.where, **self.recall_options)
            fresh = [hit for hit in hits if hit.text not in seen]
            if len(fresh) >= self.k or len(hits) < n:
                return Hits(fresh[: self.k], scope.token_counter)
            n *= 2
