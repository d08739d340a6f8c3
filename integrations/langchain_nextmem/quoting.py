"""``QuotingChatModel``: a chat model without a language model, for demonstrations and tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from nextmem_agents.recall.extract import best_sentence
from nextmem_agents.recall.rendering import HEADING

_MEMORY = r"\n\[\d+\] [^\n]*:(?:\n> [^\n]*)+"
_BLOCK = re.compile(rf"^{re.escape(HEADING)}((?:{_MEMORY})+)", re.MULTILINE)
_SPEAKER = re.compile(r"^(?:Human|AI|User|Assistant|Question|Answer):[ \t]*", re.MULTILINE)


@dataclass(frozen=True)
class _Quote:
    text: str
    score: float


class QuotingChatModel(BaseChatModel):
    """Answers with the sentence of the recalled memories that best fits the question, word for word.

    A reader for demonstrations, not intelligence: it stands in for a chat model where none can be reached,
    and shows what an agent was given by quoting it. It compares words, understands nothing, calls no tool,
    and cannot tell when the answer is not among the memories. The question is what follows the recalled block
    in the prompt, and ends with a question mark. Neither memories that are questions themselves are quoted,
    nor the two set replies.

    Attributes:
        noted: the reply to what is no question.
        nothing_recalled: the reply to a question where the prompt holds no recalled memory.
    """

    noted: str = "Noted."
    nothing_recalled: str = "I have no memory of that."

    @property
    def _llm_type(self) -> str:
        return "nextmem-quoting"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's form
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> ChatResult:
        reply = self._reply(*_read(messages))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply))])

    def _reply(self, question: str, quotes: Sequence[_Quote]) -> str:
        if not question.endswith("?"):
            return self.noted
        own = (self.noted, self.nothing_recalled)
        statements = [quote for quote in quotes if not quote.text.endswith("?") and quote.text not in own]
        return best_sentence(question, statements) or self.nothing_recalled


def _read(messages: Sequence[BaseMessage]) -> tuple[str, list[_Quote]]:
    """The question and the memories of the last recalled block, which ``recall.rendering`` wrote."""
    prompt = "\n".join(str(message.text) for message in messages if isinstance(message, HumanMessage))
    blocks = list(_BLOCK.finditer(prompt))
    if not blocks:
        return _SPEAKER.sub("", prompt).strip(), []
    memories = re.findall(_MEMORY, blocks[-1][1])
    texts = ["\n".join(line[2:] for line in memory.split("\n")[2:]).strip() for memory in memories]
    # The block names no scores; its order is theirs.
    quotes = [_Quote(text, 0.95**i) for i, text in enumerate(texts)]
    return _SPEAKER.sub("", prompt[blocks[-1].end() :]).strip(), quotes
