"""``NextMemMiddleware``: a scope as the long-term memory of ``langchain.agents.create_agent``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.runtime import Runtime

from langchain_nextmem.scopes import scope_of
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope


class NextMemMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Long-term memory for an agent: recalls before each model call, remembers after the agent is done.

    What is recalled for the user's last message stands, quoted, at the head of that message: not as one of
    its own, because some chat templates refuse two user messages in a row, and not in a system message, where
    it would carry authority. Only the model sees it. The agent's state and its checkpoints keep the message
    as it was, and so what was recalled is never remembered in its turn.

    Without arguments it opens the default store, and there the scope ``default``.

    Args:
        memory: a store (``user_id`` then names the scope), or the scope itself.
        user_id: whose memories; None for the scope ``default``. It isolates: no other user's are ever read.
        session_id: the conversation that turns are remembered under; recall searches all of the user's.
        k: at most so many memories are recalled.
        max_tokens: at most so many tokens of them go into the prompt.
        where: recalls only memories that match, e.g. ``{"session": {"$ne": "s1"}}`` to leave out those that
            the agent still has among its messages.
        remember: whether the user's last message and the final answer are remembered; False only reads.
    """

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        k: int = 5,
        max_tokens: int | None = 512,
        where: Mapping[str, Any] | None = None,
        remember: bool = True,
    ) -> None:
        super().__init__()
        self.scope = scope_of(NextMem.open() if memory is None else memory, user_id)
        self.session_id = session_id
        self.k = k
        self.max_tokens = max_tokens
        self.where = where
        self.remember = remember

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with what fits the user's last message."""
        return handler(self._with_memories(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Async twin of ``wrap_model_call``."""
        # In one thread with the decoding of what was recalled, which would block the event loop.
        return await handler(await asyncio.to_thread(self._with_memories, request))

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:  # noqa: ARG002 - its form
        """Remember the user's last message and the final answer, in one transaction; not an empty one."""
        if not self.remember:
            return
        messages = state["messages"]
        asked = _last_from_user(messages)
        if asked is None:
            return
        turn = [("user", messages[asked]), ("assistant", _final_answer(messages[asked + 1 :]))]
        said = [(role, str(message.text)) for role, message in turn if message and message.text.strip()]
        self.scope.remember(
            [text for _, text in said],
            role=[role for role, _ in said],
            session=self.session_id,
            occurred_at=datetime.now(timezone.utc),
        )

    async def aafter_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Async twin of ``after_agent``."""
        await asyncio.to_thread(self.after_agent, state, runtime)

    def _with_memories(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        asked = _last_from_user(request.messages)
        if asked is None or not request.messages[asked].text.strip():
            return request
        message = request.messages[asked]
        block = self.scope.recall(str(message.text), self.k, where=self.where).as_prompt(self.max_tokens)
        if not block:
            return request
        head, content = f"{block}\n\n", message.content
        whole = head + content if isinstance(content, str) else [{"type": "text", "text": head}, *content]
        messages = list(request.messages)
        messages[asked] = message.model_copy(update={"content": whole})
        return request.override(messages=messages)


def _last_from_user(messages: Sequence[AnyMessage]) -> int | None:
    """Where the user's last message stands."""
    for i in reversed(range(len(messages))):
        # SummarizationMiddleware and its like speak as a human too, and mark it.
        if isinstance(messages[i], HumanMessage) and "lc_source" not in messages[i].additional_kwargs:
            return i
    return None


def _final_answer(messages: Sequence[AnyMessage]) -> AIMessage | None:
    """The last answer that is no request for a tool."""
    answers = [m for m in messages if isinstance(m, AIMessage) and not m.tool_calls]
    return answers[-1] if answers else None
