"""LangChain's messages as the backbone's chat template takes them, with latents in the place of memory blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_nextmem.blocks import memory_ids
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import InvalidArgument

ContentPart: TypeAlias = str | Latents
ReadMemories: TypeAlias = Callable[[Sequence[str]], Sequence[ContentPart]]

# What stands in a reply's content beside its text, and is either kept elsewhere in the message or not said again.
_LEFT_OUT = {
    "reasoning",
    "thinking",
    "redacted_thinking",
    "tool_call",
    "tool_call_chunk",
    "tool_use",
    "invalid_tool_call",
}


def as_conversation(messages: Sequence[BaseMessage], read: ReadMemories) -> list[dict[str, Any]]:
    """Messages for :meth:`nextmem_agents.codec.chat.ChatTemplate.prompt`.

    Args:
        messages: of any of LangChain's types.
        read: ids of memories to what stands for them: latents, or text.

    Raises:
        InvalidArgument: a message holds what a language model of text cannot read.
    """
    return [_message(message, read) for message in messages]


def _message(message: BaseMessage, read: ReadMemories) -> dict[str, Any]:
    found: dict[str, Any] = {"role": _role(message), "content": _content(message, read)}
    if message.name:
        found["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        found["tool_calls"] = [
            {
                "type": "function",
                "id": call["id"] or "",
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        found["tool_call_id"] = message.tool_call_id
    return found


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in (
        (SystemMessage, "system"),
        (HumanMessage, "user"),
        (AIMessage, "assistant"),
        (ToolMessage | FunctionMessage, "tool"),
    ):
        if isinstance(message, kind):
            return role
    raise InvalidArgument(f"a chat model takes no {type(message).__name__}")


def _content(message: BaseMessage, read: ReadMemories) -> str | list[ContentPart]:
    if isinstance(message.content, str):
        return message.content
    parts: list[ContentPart] = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
        elif (ids := memory_ids(block)) is not None:
            parts += read(ids)
        elif block.get("type") == "text":
            parts.append(str(block.get("text", "")))
        elif block.get("type") not in _LEFT_OUT:
            raise InvalidArgument(
                f"ChatNextMem reads text and memory blocks, and no {block.get('type')!r} block; leave it out"
            )
    return parts
