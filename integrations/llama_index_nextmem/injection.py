"""Latents in a chat: a message carries the ids of memories, and the LLM that can read them fetches their latents."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole

from nextmem_agents.codec.chat import join_latents
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.scope import Scope

MEMORY_IDS = "nextmem_ids"
"""Where a message carries ids (``additional_kwargs``); the memories' latents stand at the head of its text."""
SCOPE = "nextmem_scope"
"""Where it says whose they are."""


def memory_message(scope: Scope, ids: Sequence[str], text: str | None = None) -> ChatMessage:
    """A user's message with memories of a scope before its text."""
    marks = {MEMORY_IDS: list(ids), SCOPE: scope.name}
    return ChatMessage(role=MessageRole.USER, content=text, additional_kwargs=marks)


def message_latents(message: ChatMessage, scope: Scope | None) -> list[Latents]:
    """The latents of the memories that a message carries, one row each, in their order.

    Raises:
        DamagedRecord: a memory's stored bytes no longer check out.
        InvalidArgument: the message names another scope than ``scope``, or there is none to read from.
        MemoryNotFound: the scope has no memory of an id.
    """
    ids = message.additional_kwargs.get(MEMORY_IDS) or []
    if not ids:
        return []
    if scope is None:
        raise InvalidArgument(
            "the messages carry memories, and this NextMemLLM has none: NextMemLLM(memory=scope)"
        )
    named = message.additional_kwargs.get(SCOPE, scope.name)
    if named != scope.name:
        raise InvalidArgument(
            f"the messages carry memories of the scope {named!r}, and this NextMemLLM reads {scope.name!r}: "
            "give each user a NextMemLLM over that user's scope, llm.over(scope)"
        )
    memories = scope.get(ids)
    return [
        join_latents([memory.batch.latents(memory.index, scope.codec)], scope.codec.fingerprint)
        for memory in memories
    ]
