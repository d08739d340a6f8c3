"""``NextMemMiddleware``: a scope as the long-term memory of ``langchain.agents.create_agent``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.runtime import Runtime
from typing_extensions import NotRequired, TypedDict, get_type_hints

from langchain_nextmem.blocks import has_memories, memory_block
from langchain_nextmem.chat_model import ChatNextMem
from langchain_nextmem.scopes import (
    check_async_call,
    check_recall,
    scope_of,
    scope_of_call,
    session_of_call,
    thread_of_call,
)
from langchain_nextmem.tools import tools_over
from langchain_nextmem.turns import remember_turn, turn_ids, well_formed
from nextmem_agents.errors import CannotAnswer, InvalidArgument, MemoryNotFound
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Memory
from nextmem_agents.recall.policy import MODES, Mode, make_plan
from nextmem_agents.scope import Scope
from nextmem_agents.scope.options import check_options


class Turn(TypedDict):
    """What a run is about, kept with its thread so that it is still known after an interrupt.

    Attributes:
        message: the id of the message that the user asked with; None if there is none.
        scope: whose memories.
        session: the conversation.
    """

    message: str | None
    scope: str
    session: str | None


class MemoryState(AgentState[Any]):
    """An agent's state with what was recalled for the present run, and for whom."""

    nextmem_ids: NotRequired[Annotated[list[str], PrivateStateAttr]]
    nextmem_turn: NotRequired[Annotated[Turn, PrivateStateAttr]]
    # As the model was given it. A checkpoint must not hold it once other middleware has taken it out of the messages.
    nextmem_question: NotRequired[Annotated[str, UntrackedValue, PrivateStateAttr]]


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

    A thread's messages are remembered once each: a replay, or a message sent again under its id, replaces. Other
    middleware may trim or summarise the messages meanwhile; only if it takes the question out between an interrupt and
    the next answer of the model, the final answer alone is remembered.

    Several can serve one agent, each with a ``name`` of its own, such as one for its user and one for a team.

    Args:
        memory: a store (``user_id`` then names the scope), or the scope itself.
        user_id: whose memories; None for the user that the call's config or context names, else the scope ``default``.
            It isolates: no other user's are ever read. A call for another user is refused, unless ``shared``.
        session_id: the conversation that turns are remembered under; by default the ``session_id`` or ``thread_id`` of
            the call. Recall searches all of the user's.
        k: at most so many memories are recalled.
        max_tokens: at most so many tokens of them go into the prompt, text and latents together.
        mode: ``"decompress"`` gives memories as text, ``"inject"`` as latents, ``"mixed"`` the best as text and the
            others as latents; ``"auto"`` injects where the model is a ``ChatNextMem`` whose codec is the memory's and
            was trained to answer, but for memories that their latents do not carry. See ``Hits.plan``.
        where: recalls only memories that match, e.g. ``{"role": "user"}``.
        other_sessions_only: recalls nothing of the present session, whose turns a checkpointer shows the model anyway.
        recall_options: whatever else ``Scope.recall`` takes, e.g. ``{"trusted_only": True}``.
        remember: whether the user's last message and the final answer are remembered; False only reads.
        tools: give the agent tools to remember and to recall by itself (see :func:`memory_tools`).
        shared: the one scope, of ``memory`` or ``user_id``, serves whichever user a call names.
        name: of this one among the agent's middleware; by default the class's.
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
        other_sessions_only: bool = False,
        recall_options: Mapping[str, Any] | None = None,
        remember: bool = True,
        tools: bool = False,
        shared: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise InvalidArgument(f"mode must be 'auto', 'decompress', 'inject' or 'mixed', not {mode!r}")
        self.memory = NextMem.open() if memory is None else memory
        self.user_id = user_id
        # Malformed settings are found now, and not in the middle of a conversation.
        scope_of(self.memory, user_id)
        check_recall(k, max_tokens, where)
        if shared and user_id is None and isinstance(self.memory, NextMem):
            raise InvalidArgument("shared=True is for one scope: give it as memory, or name it with user_id")
        if other_sessions_only and "session" in (where or {}):
            raise InvalidArgument("where has a condition on sessions already; leave other_sessions_only out")
        self.session_id = session_id
        self.k = k
        self.max_tokens = max_tokens
        self.mode: Mode = mode
        self.where = where
        self.other_sessions_only = other_sessions_only
        self.recall_options = check_options(recall_options)
        self.remember = remember
        self.shared = shared
        self._name = type(self).__name__ if name is None else name
        # Two in one agent must not read one another's state.
        self._suffix = "" if self.name == NextMemMiddleware.__name__ else f"_{self.name}"
        self.state_schema = _with_suffix(type(self).state_schema, self._suffix)
        self.tools = tools_over(self._scope_of_run, self._session_of_run) if tools else []

    @property
    def name(self) -> str:
        """What tells this middleware from the agent's others."""
        return self._name

    @property
    def scope(self) -> Scope:
        """What is read and written in the present call."""
        return self._scope_of_run(None)

    def before_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Recall for the user's last message; only ids go into the state."""
        messages = state["messages"]
        asked = _last_from_user(messages)
        scope = self._scope_of_run(None, runtime)
        session = session_of_call(self.session_id, runtime)
        turn = Turn(message=None if asked is None else messages[asked].id, scope=scope.name, session=session)
        query = "" if asked is None else well_formed(str(messages[asked].text))
        ids: list[str] = []
        if query.strip():
            where = dict(self.where or {})
            if self.other_sessions_only and session is not None:
                where["session"] = {"$ne": session}
            ids = [hit.id for hit in scope.recall(query, self.k, where=where, **self.recall_options)]
        return {f"nextmem_ids{self._suffix}": ids, f"nextmem_turn{self._suffix}": turn}

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

    def after_model(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """Keep the question for the rest of the run; middleware between here and its end may trim the messages."""
        asked = self._asked(state, state["messages"])
        if not self.remember or asked is None:
            return None
        return {f"nextmem_question{self._suffix}": str(state["messages"][asked].text)}

    async def aafter_model(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Async twin of ``after_model``."""
        return self.after_model(state, runtime)

    def after_agent(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        """Remember the user's last message and the final answer, in one transaction; not an empty one.

        What ``on_remember`` refuses is a warning of the logger ``langchain_nextmem.turns``: the run has its answer.
        """
        messages = state["messages"]
        turn = self._kept(state, "turn")
        asked = self._asked(state, messages)
        if not self.remember or (asked is None and not (turn and turn["message"])):
            return
        begins = asked if asked is not None else _last_human(messages)
        answers = _answers(messages if begins is None else messages[begins + 1 :])
        question = self._kept(state, "question") or "" if asked is None else str(messages[asked].text)
        remember_turn(
            self._scope_of_run(state, runtime),
            {"user": question, "assistant": str(answers[-1].text) if answers else ""},
            self._session_of_run(state, runtime),
            turn_ids(thread_of_call(), turn["message"], len(answers) - 1) if turn else None,
        )

    async def aafter_agent(self, state: MemoryState, runtime: Runtime[Any]) -> None:
        """Async twin of ``after_agent``."""
        check_async_call(self.memory, self.user_id, runtime)
        await asyncio.to_thread(self.after_agent, state, runtime)

    def _with_memories(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        ids: list[str] = self._kept(request.state, "ids") or []
        asked = self._asked(request.state, request.messages)
        if asked is None:
            asked = _last_human(request.messages)
        if not ids or asked is None:
            return request
        scope = self._scope_of_run(request.state, request.runtime)
        plan = make_plan(
            _still_there(scope, ids),
            scope.token_counter(),
            model=self._reader(request, scope),
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

    def _kept(self, state: Mapping[str, Any] | None, key: str) -> Any:
        return (state or {}).get(f"nextmem_{key}{self._suffix}")

    def _asked(self, state: Mapping[str, Any], messages: Sequence[AnyMessage]) -> int | None:
        """Where the message stands that the run began with; None if it is there no longer."""
        turn: Turn | None = self._kept(state, "turn")
        if turn is None or turn["message"] is None:
            return _last_from_user(messages)
        return next((i for i, message in enumerate(messages) if message.id == turn["message"]), None)

    def _scope_of_run(self, state: Mapping[str, Any] | None, runtime: Any = None) -> Scope:
        if self.shared:
            return scope_of(self.memory, self.user_id)
        turn: Turn | None = self._kept(state, "turn")
        return scope_of_call(self.memory, self.user_id, runtime, turn["scope"] if turn else None)

    def _session_of_run(self, state: Mapping[str, Any] | None, runtime: Any = None) -> str | None:
        turn: Turn | None = self._kept(state, "turn")
        return turn["session"] if turn else session_of_call(self.session_id, runtime)

    def _reader(self, request: ModelRequest[Any], scope: Scope) -> ChatNextMem | None:
        """The model if it reads the scope's latents; None for one that reads text."""
        model: Any = request.model
        if isinstance(model, ChatNextMem) and model.codec.fingerprint == scope.codec.fingerprint:
            if self.mode != "auto":
                return model
            # A model reads one scope; another middleware may have put blocks of its own into the messages.
            others = isinstance(model.memory, Scope) and model.memory.name != scope.name
            taken = others and any(map(has_memories, request.messages))
            return model if model.reads(scope) and not taken else None
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


def _last_human(messages: Sequence[AnyMessage]) -> int | None:
    """Where the last message stands that speaks as a human, be it a summary."""
    return next((i for i in reversed(range(len(messages))) if isinstance(messages[i], HumanMessage)), None)


def _answers(messages: Sequence[AnyMessage]) -> list[AIMessage]:
    """The answers that are no request for a tool; the last is the final one."""
    return [m for m in messages if isinstance(m, AIMessage) and not m.tool_calls]


def _with_suffix(schema: type[MemoryState], suffix: str) -> type[MemoryState]:
    """A schema of state in which the middleware's own fields have a suffix."""
    if not suffix:
        return schema
    hints = get_type_hints(schema, include_extras=True)
    named = {f"{key}{suffix}" if key.startswith("nextmem_") else key: hint for key, hint in hints.items()}
    return cast("type[MemoryState]", TypedDict("MemoryState", named))  # type: ignore[operator]
