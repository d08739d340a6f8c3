"""``QuotingChatModel``: a chat model without a language model, for demonstrations and tests."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from nextmem_agents.recall.quoting import quoted_reply, recalled_texts

_SPEAKER = re.compile(r"^(?:Human|AI|User|Assistant|Question|Answer):[ \t]*", re.MULTILINE)


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
        prompt = "\n".join(str(message.text) for message in messages if isinstance(message, HumanMessage))
        texts, rest = recalled_texts(prompt)
        reply = quoted_reply(
            _SPEAKER.sub("", rest).strip(), texts, noted=self.noted, nothing_recalled=self.nothing_recalled
        )
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply))])
