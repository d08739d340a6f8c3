"""``NextMemMiddleware``: a scope as the long-term memory of ``langchain.agents.create_agent``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Annotated, Any

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.runtime import Runtime
from typing_extensions import NotRequired

from langchain_nextmem.blocks import memory_block
from langchain_nextmem.chat_model import ChatNextMem
from langchain_nextmem.scopes import check_async_call, scope_of, scope_of_call, session_of_call
from langchain_nextmem.tools import memory_tools
from nextmem_agents.errors import CannotAnswer, InvalidArgument, MemoryNotFound
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Memory
from nextmem_agents.recall.policy import MODES, Mode, make_plan
from nextmem_agents.scope import Scope
from nextmem_agents.scope.options import check_options


class MemoryState(AgentState[Any]):
    """An agent's state with what was recalled for the present run."""

    nextmem_ids: NotRequired[Annotated[list[str], PrivateStateAttr]]


class NextMemMiddleware(AgentMiddleware[MemoryState, Any]):
    """Long-term memory for an agent: recalls when a run begins, remembers when it is done.

    What is recalled for the user's last message stands, quoted, at the head of that message: not as one of its own,
    because some chat templates refuse two user messages in a row, and not in a system message, where it would carry
    authority. A :class:`ChatNextMem` over the same codec gets the latents in its place. Only the model sees it. The
    agent's state and its checkpoints keep the message as it was, and the ids of what was recalled, never its text; and
    so what was recalled is never remembered in its turn.

    Without arguments it opens the default store, and there the scope ``default``. One agent can serve many users: give
    the store without ``user_id``, and name the user with each call, ``agent.invoke(…, {"configurable": {"user_id":
    "alice", "thread_id": "t1"}})`` or in the context (``context_schema`` with ``user_id``).

    Args:
        memory: a store (``user_id`` then names the scope), or the scope itself.
        user_id: whose memories; None for the user that the call's config or context names, else the scope ``default``.
            It isolates: no other user's are ever read.
        session_id: the conversation that turns are remembered under; by default the ``session_id`` or ``thread_id`` of
            the call. Recall searches all of the user's.
        k: at most so many memories are recalled.
        max_tokens: at most so many tokens of them go into the prompt, text and latents together.
        mode: ``"decompress"`` gives memories as text, ``"inject"`` as latents, ``"mixed"`` the best as text and the
            others as latents; ``"auto"`` injects where the model is a ``ChatNextMem`` whose codec is the memory's and
            was trained to answer, but for memories that their latents do not carry. See ``Hits.plan``.
        where: recalls only memories that match, e.g. ``{"session": {"$ne": "s1"}}`` to leave out those that
            the agent still has among its messages.
        recall_options: whatever else ``Scope.recall`` takes, e.g. ``{"trusted_only": True}``.
        remember: whether the user's last message and the final answer are remembered; False only reads.
        tools: give the agent tools to remember and to recall by itself (see :func:`memory_tools`).
    """

    state_schema = MemoryState

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        k: int = 5,
        max_tokens: int | None = 512,
        mode: Mode = "auto",
        where: Mapping[str, Any] | None = None,
        recall_options: Mapping[str, Any] | None = None,
        remember: bool = True,
        tools: bool = False,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise InvalidArgument(f"mode must be 'auto', 'decompress', 'inject' or 'mixed', not {mode!r}")
        self.memory = NextMem.open() if memory is None else memory
        self.user_id = user_id
        scope_of(
            self.memory, user_id
        )  # a malformed one is found now, and not in the middle of a conversation
        self.session_id = session_id
        self.k = k
        self.max_tokens = max_tokens
        self.mode: Mode = mode
        self.where = where
        self.recall_options = check_options(recall_options)
        self.remember = remember
        self.tools = memory_tools(self.memory, user_id=user_id, session_id=session_id) if tools else []

    @property
    def scope(self) -> Scope:
        """What is read and written in the present call."""
        return scope_of_call(self.memory, self.user_id)

    def before_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall for the user's last message; only ids go into the state."""
        asked = _last_from_user(state["messages"])
        query = "" if asked is None else str(state["messages"][asked].text)
        if not query.strip():
            return {"nextmem_ids": []}
        scope = scope_of_call(self.memory, self.user_id, runtime)
        hits = scope.recall(query, self.k, where=self.where, **self.recall_options)
        return {"nextmem_ids": [hit.id for hit in hits]}

    async def abefore_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Async twin of ``before_agent``."""
        check_async_call(self.memory, self.user_id, runtime)
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with what was recalled."""
        return handler(self._with_memories(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Async twin of ``wrap_model_call``."""
        check_async_call(self.memory, self.user_id, request.runtime)
        # In one thread with the decoding of what was recalled, which would block the event loop.
        return await handler(await asyncio.to_thread(self._with_memories, request))

    def after_agent(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        """Remember the user's last message and the final answer, in one transaction; not an empty one."""
        if not self.remember:
            return
        messages = state["messages"]
        asked = _last_from_user(messages)
        if asked is None:
            return
        turn = [("user", messages[asked]), ("assistant", _final_answer(messages[asked + 1 :]))]
        said = [(role, str(message.text)) for role, message in turn if message and message.text.strip()]
        scope_of_call(self.memory, self.user_id, runtime).remember(
            [text for _, text in said],
            role=[role for role, _ in said],
            session=session_of_call(self.session_id, runtime),
            occurred_at=datetime.now(timezone.utc),
        )

    async def aafter_agent(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        """Async twin of ``after_agent``."""
        check_async_call(self.memory, self.user_id, runtime)
        await asyncio.to_thread(self.after_agent, state, runtime)

    def _with_memories(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        ids: list[str] = request.state.get("nextmem_ids") or []  # type: ignore[assignment]
        asked = _last_from_user(request.messages)
        if not ids or asked is None:
            return request
        scope = scope_of_call(self.memory, self.user_id, request.runtime)
        plan = make_plan(
            _still_there(scope, ids),
            scope.token_counter(),
            model=self._reader(request.model, scope),
            mode=self.mode,
            max_tokens=self.max_tokens,
        )
        head: list[dict[str, Any] | str] = []
        model = request.model
        if injected := plan.of("inject"):
            head.append(memory_block([memory.id for memory in injected]))
            model = model.in_scope(scope) if isinstance(model, ChatNextMem) else model
        if block := plan.render():
            head.append(f"{block}\n\n")
        if not head:
            return request
        messages = list(request.messages)
        messages[asked] = messages[asked].model_copy(
            update={"content": _headed(head, messages[asked].content)}
        )
        return request.override(messages=messages, model=model)

    def _reader(self, model: Any, scope: Scope) -> ChatNextMem | None:
        """The model if it reads the scope's latents; None for one that reads text."""
        if isinstance(model, ChatNextMem) and model.codec.fingerprint == scope.codec.fingerprint:
            return model if self.mode != "auto" or model.reads(scope) else None
        if self.mode in ("inject", "mixed"):
            raise CannotAnswer(
                f"latents of codec {scope.codec.config.name!r} can be injected into ChatNextMem over that codec only, "
                f"not into {type(model).__name__}; leave mode='auto'"
            )
        return None


def _headed(head: Sequence[dict[str, Any] | str], content: Any) -> Any:
    if isinstance(content, str) and all(isinstance(part, str) for part in head):
        return "".join([*map(str, head), content])
    first = [{"type": "text", "text": part} if isinstance(part, str) else part for part in head]
    return [*first, *([{"type": "text", "text": content}] if isinstance(content, str) else content)]


def _still_there(scope: Scope, ids: Sequence[str]) -> list[Memory]:
    """The memories of ids; what was forgotten since they were recalled is left out."""
    try:
        return scope.get(list(ids))
    except MemoryNotFound:
        left = {memory.id for memory in scope.list(where={"id": {"$in": list(ids)}})}
        return scope.get([each for each in ids if each in left])


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
