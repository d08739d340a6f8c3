"""``QuotingLLM``: an LLM without a language model, for demonstrations and tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from nextmem_agents.recall.quoting import quoted_reply, recalled_texts

_QUESTION = re.compile(r"[^\n]*\?\s*$", re.MULTILINE)


class QuotingLLM(CustomLLM):
    """Answers with the sentence of the recalled memories that best fits the question, word for word.

    A reader for demonstrations, not intelligence: it stands in for an LLM where none can be reached, and shows what it
    was given by quoting it. It compares words, understands nothing, calls no tool, and cannot tell when the answer is
    not among the memories. The question is the last line of the last message that ends with a question mark. Neither
    memories that are questions themselves are quoted, nor the two set replies.

    Attributes:
        noted: the reply to what is no question.
        nothing_recalled: the reply to a question where the prompt holds no recalled memory.
    """

    noted: str = "Noted."
    nothing_recalled: str = "I have no memory of that."

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for it."""
        return "QuotingLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know about a model."""
        return LLMMetadata(
            context_window=8192, num_output=256, is_chat_model=True, model_name="nextmem-quoting"
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:  # noqa: ARG002 - LlamaIndex's form
        """The reply to the last message of the user."""
        asked = [message.content or "" for message in messages if message.role is MessageRole.USER]
        reply = self._reply(asked[-1] if asked else "")
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=reply), delta=reply)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The same in one piece."""
        yield self.chat(messages, **kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: ARG002
        """The reply to a prompt."""
        reply = self._reply(prompt)
        return CompletionResponse(text=reply, delta=reply)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The same in one piece."""
        yield self.complete(prompt, formatted, **kwargs)

    def _reply(self, prompt: str) -> str:
        texts, rest = recalled_texts(prompt)
        asked = _QUESTION.findall(rest) or [""]
        return quoted_reply(
            asked[-1].strip(), texts, noted=self.noted, nothing_recalled=self.nothing_recalled
        )
