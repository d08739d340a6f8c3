"""What of a chat is worth remembering: what the user and the assistant said, and not how the agent got there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llama_index.core.base.llms.types import ChatMessage, MessageRole

_SPEAKERS = (MessageRole.USER, MessageRole.ASSISTANT)
_THOUGHT, _ANSWER = "\nThought: ", "\nAnswer: "


class Turn(NamedTuple):
    """Who said what."""

    role: str
    text: str


def turns(messages: Iterable[ChatMessage]) -> list[Turn]:
    """The user's messages and the assistant's answers that have a text, in order.

    Left out are system messages, requests for a tool and what tools reply. Of ``ReActAgent``, which keeps its whole
    reasoning in one message, only the answer counts.

    Examples:
        >>> turns([ChatMessage(role="assistant", content="Thought: Easy.\\nAnswer: In Lisbon.")])
        [Turn(role='assistant', text='In Lisbon.')]
    """
    said = []
    for message in messages:
        text = message.content
        if message.role not in _SPEAKERS or not text or not text.strip() or _calls_a_tool(message):
            continue
        answered = message.role is MessageRole.ASSISTANT
        said.append(Turn(message.role.value, _answer(text) if answered else text))
    return said


def _calls_a_tool(message: ChatMessage) -> bool:
    # Some LLM packages say it in a block (by name: early 0.14 has no such class), others in their API's arguments.
    in_a_block = any(block.block_type == "tool_call" for block in message.blocks)
    return in_a_block or bool(message.additional_kwargs.get("tool_calls"))


def _answer(text: str) -> str:
    _, thought, last_step = f"\n{text}".rpartition(_THOUGHT)
    _, _, answer = last_step.partition(_ANSWER)
    return answer if thought and text.startswith(_THOUGHT.strip()) and answer.strip() else text
