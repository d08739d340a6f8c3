"""A model that says its lines and keeps what it was asked, and the files that say what that should be."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from copy import deepcopy
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from pydantic import Field

from nextmem_agents import NextMem, Scope

GOLDEN = Path(__file__).parent / "golden"
NOW = datetime(2025, 6, 1, 9, 0, tzinfo=timezone.utc)
Call = dict[str, Any]
# LlamaIndex's own: its workflows look at every attribute of an agent, pydantic's old ones included, and ReActAgent asks
# for what they no longer like to tell.
WARNINGS_OF_AGENTS = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


class ScriptedLLM(FunctionCallingLLM):
    """Answers with its lines in turn, the last one for ever; a line that is a dictionary calls a tool."""

    lines: list[str | Call]
    prompts: list[list[ChatMessage]] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=4096,
            num_output=64,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name="scripted",
        )

    def _reply(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        self.prompts.append(deepcopy(list(messages)))
        line = self.lines[min(len(self.prompts), len(self.lines)) - 1]
        if isinstance(line, str):
            return ChatResponse(message=ChatMessage(role="assistant", content=line), delta=line)
        message = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [line]})
        return ChatResponse(message=message, delta="")

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._reply(messages)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._reply(messages)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        yield self._reply(messages)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        async def reply() -> ChatResponseAsyncGen:
            yield self._reply(messages)

        return reply()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError("it is asked as a chat model")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError("it is asked as a chat model")

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError("it is asked as a chat model")

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        raise NotImplementedError("it is asked as a chat model")

    def _prepare_chat_with_tools(
        self, tools: Any, user_msg: Any = None, chat_history: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        return {"messages": [*(chat_history or []), *([user_msg] if user_msg else [])]}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        calls = response.message.additional_kwargs.get("tool_calls", [])
        return [
            ToolSelection(tool_id=f"call-{i}", tool_name=call["name"], tool_kwargs=call["arguments"])
            for i, call in enumerate(calls)
        ]


def what_reached(llm: ScriptedLLM) -> str:
    """Every prompt of a model as text."""
    lines = []
    for number, prompt in enumerate(llm.prompts, 1):
        lines.append(f"=== call {number}")
        for message in prompt:
            kwargs = f" {json.dumps(message.additional_kwargs)}" if message.additional_kwargs else ""
            lines.append(f"--- {message.role.value}{kwargs}\n{message.content or ''}")
    return "\n".join(lines) + "\n"


def check_golden(name: str, llm: ScriptedLLM) -> None:
    """What reached the model is what the file says; NEXTMEM_WRITE_GOLDEN=1 writes it, for a person to read."""
    path, found = GOLDEN / f"{name}.txt", what_reached(llm)
    if os.environ.get("NEXTMEM_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


@pytest.fixture
def alice(memory: NextMem) -> Scope:
    return memory.scope("alice")


@pytest.fixture(autouse=True)
async def _closed_histories(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """LlamaIndex never closes the database behind a chat's history, and Python warns of that."""
    made: list[SQLAlchemyChatStore] = []
    init = SQLAlchemyChatStore.__init__

    def noted(self: SQLAlchemyChatStore, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(SQLAlchemyChatStore, "__init__", noted)
    yield
    for store in made:
        if store._async_engine is not None:
            await store._async_engine.dispose()


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is said at one known time."""
    monkeypatch.setattr("llama_index_nextmem.memory.utc_now", lambda: NOW)


def said(scope: Scope) -> list[tuple[str | None, str, str | None]]:
    return [(memory.role, memory.text, memory.session) for memory in scope.list()]
