"""Readers in LlamaIndex, both ways: a reader as an LLM, and an LLM as a reader."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from nextmem_agents.errors import MissingExtra, ReaderError
from nextmem_agents.evaluation.readers.reader import INSTRUCTIONS, Reader, public


def require_llama_index() -> None:
    """Raise MissingExtra where LlamaIndex is not installed."""
    # find_spec of a submodule imports its parent, which must be there
    if importlib.util.find_spec("llama_index") is None:
        raise MissingExtra('this needs LlamaIndex: pip install "nextmem-agents[llama-index]"')


require_llama_index()

from llama_index.core.base.llms.types import (  # noqa: E402
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import LLM, CustomLLM  # noqa: E402
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback  # noqa: E402
from pydantic import ConfigDict, Field  # noqa: E402


class ReaderLLM(CustomLLM):
    """A reader as a chat engine's LLM: it is given the system message and the user's last one."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reader: Reader = Field(exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for it."""
        return "ReaderLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know about a model."""
        return LLMMetadata(
            context_window=1_000_000, num_output=256, is_chat_model=True, model_name=self.reader.name
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:  # noqa: ARG002 - LlamaIndex's form
        """The reply to the last message of the user."""
        asked = [text_of(message) for message in messages if message.role is MessageRole.USER]
        system = next((text_of(m) for m in messages if m.role is MessageRole.SYSTEM), None)
        reply = self.reader.reply(asked[-1] if asked else "", system)
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=reply))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: ARG002
        """The reply to a prompt."""
        return CompletionResponse(text=self.reader.reply(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The same in one piece."""
        yield self.complete(prompt, formatted, **kwargs)


class LlamaIndexReader(Reader):
    """A LlamaIndex LLM as a reader."""

    instructions = INSTRUCTIONS

    def __init__(self, llm: LLM, name: str, options: Mapping[str, Any] | None = None):
        self._llm = llm
        self.name = f"llama-index:{name}"
        self._options = public(options or {})

    def settings(self) -> dict[str, Any]:
        """With its keyword arguments, keys apart."""
        return super().settings() | {"options": self._options}

    def reply(self, prompt: str, system: str | None = None) -> str:
        """The LLM's reply."""
        messages = [
            ChatMessage(role=MessageRole.SYSTEM, content=self.instructions if system is None else system),
            ChatMessage(role=MessageRole.USER, content=prompt),
        ]
        try:
            return (self._llm.chat(messages).message.content or "").strip()
        except Exception as error:  # whatever a provider's client raises
            raise ReaderError(f"{self.name} gave no reply: {type(error).__name__}: {error}") from error

    def llm(self) -> LLM:
        """The LLM itself."""
        return self._llm


def text_of(message: ChatMessage) -> str:
    """All text of a message, its blocks one after another as they stand."""
    return "\n".join(block.text for block in message.blocks if block.block_type == "text")
