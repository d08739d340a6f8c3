"""A LangChain agent (``create_agent``) with a memory: ``NextMemMiddleware``, or any text memory in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from nextmem_agents.evaluation.agents.agent import Asked, Latent
from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories.memory import TextMemory
from nextmem_agents.evaluation.readers.in_langchain import require_langchain
from nextmem_agents.evaluation.readers.reader import Reader

require_langchain()

from langchain.agents import create_agent  # noqa: E402
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse  # noqa: E402
from langchain_core.messages import AnyMessage, HumanMessage  # noqa: E402

from langchain_nextmem import NextMemMiddleware  # noqa: E402
from langchain_nextmem.blocks import memory_ids  # noqa: E402

Handler = Callable[[ModelRequest[Any]], ModelResponse[Any]]


class TextMemoryMiddleware(AgentMiddleware[Any, Any]):
    """A text memory at the place where ``NextMemMiddleware`` has its own: quoted at the head of the user's message."""

    def __init__(self, memory: TextMemory):
        super().__init__()
        self.memory = memory
        self.recalled: tuple[str, ...] = ()

    def wrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any]:
        """Recall for the user's message, and call the model with what was found."""
        messages = list(request.messages)
        question = str(messages[-1].text)
        found = self.memory.recall(question)
        self.recalled = found.ids
        if found.block:
            messages[-1] = HumanMessage(f"{found.block}\n\n{question}")
        return handler(request.override(messages=messages))


class Witness(AgentMiddleware[Any, Any]):
    """Stands next to the model, and notes what it is given and how long it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: Sequence[AnyMessage] = ()
        self.ids: Sequence[str] = ()
        self.seconds = 0.0

    def wrap_model_call(self, request: ModelRequest[Any], handler: Handler) -> ModelResponse[Any]:
        """Call the model."""
        self.messages = request.messages
        state: Mapping[str, Any] = request.state
        self.ids = state.get("nextmem_ids") or ()
        started = time.perf_counter()
        try:
            return handler(request)
        finally:
            self.seconds = time.perf_counter() - started


class LangChainAgent:
    """An agent of ``create_agent`` over one history.

    A latent memory takes in sessions through the scope that its middleware holds, with who said what, and when: the
    way in which applications bring in a conversation that is over. Questions go through the agent's whole graph.
    """

    def __init__(self, memory: Latent | TextMemory, reader: Reader, count: Callable[[str], int]):
        self._memory = memory
        self._reader = reader
        self._count = count
        self._witness = Witness()
        self._middleware: TextMemoryMiddleware | NextMemMiddleware
        if isinstance(memory, Latent):
            self._middleware = NextMemMiddleware(
                memory.scope, k=memory.k, max_tokens=memory.max_tokens, mode=memory.mode, remember=False
            )
        else:
            self._middleware = TextMemoryMiddleware(memory)
        self._graphs: dict[str, Any] = {}

    def read(self, session: Session) -> None:
        """Take in a session."""
        self._memory.read(session)

    def ask(self, question: str, asked_at: datetime | None = None) -> Asked:
        """One run of the agent, in a thread of its own."""
        graph = self._graph(self._reader.told(asked_at))
        started = time.perf_counter()
        state = graph.invoke({"messages": [HumanMessage(question)]})
        seconds = time.perf_counter() - started
        return self._asked(question, str(state["messages"][-1].text).strip(), seconds)

    def _graph(self, system: str) -> Any:
        if system not in self._graphs:
            self._graphs[system] = create_agent(
                self._reader.chat_model(),
                system_prompt=system or None,
                middleware=[self._middleware, self._witness],
            )
        return self._graphs[system]

    def _asked(self, question: str, reply: str, seconds: float) -> Asked:
        text, injected = _parts(self._witness.messages[-1].content)
        positions = 0
        if isinstance(self._memory, Latent):
            recalled = self._memory.turns(self._witness.ids)
            positions = self._memory.latents(injected)
        else:
            recalled = getattr(self._middleware, "recalled", ())
        memory = text.removesuffix(question).rstrip("\n")
        return Asked(
            reply=reply,
            prompt=(f"<{positions} latents>" if injected else "") + text,
            recalled=recalled,
            text_tokens=self._count(memory) if memory else 0,
            latent_positions=positions,
            seconds=seconds,
            reader_seconds=self._witness.seconds,
        )


def _parts(content: Any) -> tuple[str, list[str]]:
    """A message's text, and the ids of memories that go into it as latents."""
    if isinstance(content, str):
        return content, []
    text, ids = "", []
    for block in content:
        if isinstance(block, str):
            text += block
        elif (found := memory_ids(block)) is not None:
            ids += found
        else:
            text += str(block.get("text", ""))
    return text, ids
