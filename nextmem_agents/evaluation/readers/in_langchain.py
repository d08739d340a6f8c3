"""Readers in LangChain, both ways: a reader as a chat model, and a chat model as a reader."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from nextmem_agents.errors import MissingExtra, ReaderError
from nextmem_agents.evaluation.readers.reader import INSTRUCTIONS, Reader, public


def require_langchain() -> None:
    """Raise MissingExtra where LangChain is not installed."""
    if importlib.util.find_spec("langchain") is None or importlib.util.find_spec("langchain_core") is None:
        raise MissingExtra('this needs LangChain: pip install "nextmem-agents[langchain]"')


require_langchain()

from langchain_core.callbacks import CallbackManagerForLLMRun  # noqa: E402
from langchain_core.language_models import BaseChatModel  # noqa: E402
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage  # noqa: E402
from langchain_core.outputs import ChatGeneration, ChatResult  # noqa: E402
from pydantic import ConfigDict  # noqa: E402


class ReaderChatModel(BaseChatModel):
    """A reader as an agent's model: it is given the system message and the user's last one."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reader: Reader

    @property
    def _llm_type(self) -> str:
        return "nextmem-reader"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's form
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> ChatResult:
        asked = [message for message in messages if isinstance(message, HumanMessage)]
        system = next((str(m.text) for m in messages if isinstance(m, SystemMessage)), None)
        reply = self.reader.reply(str(asked[-1].text) if asked else "", system)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply))])


class LangChainReader(Reader):
    """A LangChain chat model as a reader."""

    instructions = INSTRUCTIONS

    def __init__(self, model: BaseChatModel, name: str, options: Mapping[str, Any] | None = None):
        self._model = model
        self.name = f"langchain:{name}"
        self._options = public(options or {})

    def settings(self) -> dict[str, Any]:
        """With its keyword arguments, keys apart."""
        return super().settings() | {"options": self._options}

    def reply(self, prompt: str, system: str | None = None) -> str:
        """The model's reply."""
        messages = [SystemMessage(self.instructions if system is None else system), HumanMessage(prompt)]
        try:
            return str(self._model.invoke(messages).text).strip()
        except Exception as error:  # whatever a provider's client raises
            raise ReaderError(f"{self.name} gave no reply: {type(error).__name__}: {error}") from error

    def chat_model(self) -> BaseChatModel:
        """The model itself."""
        return self._model
