"""The protocol of readers, and the prompt that text readers are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nextmem_agents.recall.rendering import Renderable, render

INSTRUCTIONS = (
    "Answer the question in a short phrase, from the recalled memories and with their exact words wherever possible. "
    "If the memories do not hold the answer, reply: No information available."
)
"""What a model that follows instructions is told, in every mode and framework alike. The words of the refusal are
those that LoCoMo's score looks for."""


@dataclass(frozen=True)
class Quotation:
    """A text with its provenance, as memories are rendered for prompts."""

    id: str
    text: str
    role: str | None = None
    occurred_at: datetime | None = None


@dataclass(frozen=True)
class Told:
    """A reply, with what the reader was given for it.

    Attributes:
        text: the reply.
        prompt: what was given, word for word; latents stand in it as ``<N latents>``.
        text_tokens: tokens of memory in it.
        latent_positions: positions of memory that were latents.
    """

    text: str
    prompt: str
    text_tokens: int
    latent_positions: int = 0


class Reader(ABC):
    """Answers a prompt. Subclasses say how; all else is the same for all of them.

    Attributes:
        name: what tables call it.
        instructions: a system message that goes with every prompt; the empty string for none.
    """

    name: str
    instructions: str = ""

    @abstractmethod
    def reply(self, prompt: str, system: str | None = None) -> str:
        """The reply to a user's message.

        Args:
            prompt: the message.
            system: in place of ``instructions``; a reader without any ignores it.

        Raises:
            ReaderError: there is no reply: a server that cannot be reached, a model that fails.
        """

    def told(self, asked_at: datetime | None = None) -> str:
        """The system message of a question: the instructions, and what day it is; empty without instructions."""
        if not self.instructions or asked_at is None:
            return self.instructions
        return f"{self.instructions} Today is {asked_at:%A}, {asked_at:%Y-%m-%d}."

    def settings(self) -> dict[str, Any]:
        """What changes its replies, as JSON; kept beside every result."""
        return {"reader": self.name, "instructions": self.instructions}

    def read(
        self,
        memories: Sequence[Renderable],
        question: str,
        count: Callable[[str], int],
        max_tokens: int | None = None,
        system: str | None = None,
    ) -> Told:
        """The reply to a question from memories as text, whoever decoded them."""
        block = render(memories, count, max_tokens)
        prompt = quoted_prompt(block, question)
        return Told(self.reply(prompt, system), prompt, count(block) if block else 0)

    def chat_model(self) -> Any:
        """It as a LangChain chat model.

        Raises:
            MissingExtra: LangChain is not installed.
        """
        from nextmem_agents.evaluation.readers.in_langchain import ReaderChatModel

        return ReaderChatModel(reader=self)

    def llm(self) -> Any:
        """It as a LlamaIndex LLM.

        Raises:
            MissingExtra: LlamaIndex is not installed.
        """
        from nextmem_agents.evaluation.readers.in_llama_index import ReaderLLM

        return ReaderLLM(reader=self)


def quoted_prompt(block: str, question: str) -> str:
    """A rendered block of memories and a question, as ``Scope.answer`` gives them to a model.

    >>> quoted_prompt("", "Where?")
    'Question: Where?\\nAnswer:'
    """
    asked = f"Question: {question}\nAnswer:"
    return f"{block}\n\n{asked}" if block else asked


def public(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that may be written down: none whose name speaks of a key, a token or a secret."""
    hidden = ("key", "token", "secret", "password", "authorization", "headers")
    shown = {"max_new_tokens", "max_tokens", "api_key_env"}
    return {
        name: value
        for name, value in options.items()
        if name in shown or not any(word in name.lower() for word in hidden)
    }
