"""The content block that stands for memories in a message: their ids, and nothing of what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from nextmem_agents.errors import InvalidArgument

MEMORY_BLOCK = "nextmem_memory"


def memory_block(ids: Sequence[str]) -> dict[str, Any]:
    """A content block that puts memories into a message, best first.

    It holds ids only, so that messages can be kept in checkpoints; whose they are is the model's to know, and is
    not part of the message. ``ChatNextMem`` puts the latents in its place; other models do not know the block.

    Args:
        ids: of the scope that the model reads.

    Examples:
        >>> from langchain_core.messages import HumanMessage
        >>> HumanMessage([memory_block(["note-1"]), {"type": "text", "text": "Where does she live?"}]).text
        'Where does she live?'
    """
    return {"type": MEMORY_BLOCK, "ids": list(ids)}


def memory_ids(block: Mapping[str, Any]) -> list[str] | None:
    """The ids of a memory block, also in LangChain's standard form for what it does not know; None for another.

    Raises:
        InvalidArgument: it is a memory block without a list of ids.
    """
    if block.get("type") == "non_standard" and isinstance(block.get("value"), Mapping):
        block = block["value"]
    if block.get("type") != MEMORY_BLOCK:
        return None
    ids = block.get("ids")
    if not isinstance(ids, list | tuple) or not all(isinstance(each, str) for each in ids):
        raise InvalidArgument(
            f'a {MEMORY_BLOCK} block has a list of ids: {{"type": "{MEMORY_BLOCK}", "ids": ["…"]}}'
        )
    return list(ids)


def has_memories(message: BaseMessage) -> bool:
    """Whether a message has a memory block."""
    return not isinstance(message.content, str) and any(
        memory_ids(block) is not None for block in message.content if not isinstance(block, str)
    )
