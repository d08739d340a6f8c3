"""A chat model that says its lines and keeps what it was asked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_classic.chains import ConversationChain
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from nextmem_agents import NextMem, Scope


class ScriptedModel(BaseChatModel):
    """Answers with its lines in turn, the last one for ever; ``prompts`` holds the messages of each call."""

    lines: Sequence[str | AIMessage]
    prompts: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> ScriptedModel:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.prompts.append(messages)
        line = self.lines[min(len(self.prompts), len(self.lines)) - 1]
        reply = line.model_copy(update={"id": None}) if isinstance(line, AIMessage) else AIMessage(line)
        return ChatResult(generations=[ChatGeneration(message=reply)])

    @property
    def last(self) -> str:
        """All text of the last prompt."""
        return "\n".join(str(message.text) for message in self.prompts[-1])


@pytest.fixture
def alice(memory: NextMem) -> Scope:
    return memory.scope("alice")


def texts(scope: Scope) -> list[str]:
    return [memory.text for memory in scope.list()]


def conversation(model: ScriptedModel, memory: Any, **settings: Any) -> ConversationChain:
    with warnings.catch_warnings():  # LangChain warns once a process, so it cannot be expected
        warnings.filterwarnings("ignore", "The class `ConversationChain`", LangChainDeprecationWarning)
        return ConversationChain(llm=model, memory=memory, **settings)
