"""``NextMemMemory``: a scope as the memory of a LangChain chain or ``AgentExecutor``."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Annotated, Any, Literal

from langchain_classic.base_memory import BaseMemory
from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import AfterValidator, ConfigDict, Field

from langchain_nextmem.blocks import memory_block
from langchain_nextmem.middleware import NextMemMiddleware
from langchain_nextmem.scopes import check_async_call, check_recall, scope_of, scope_of_call, session_of_call
from langchain_nextmem.turns import remember_turn, well_formed
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope
from nextmem_agents.scope.options import check_options


class NextMemMemory(BaseMemory):
    """Long-term memory for chains: recalls what fits the input before a turn, remembers the turn after it.

    Without arguments it opens the default store, and there the scope ``default``. One chain can serve many users: leave
    ``user_id`` out, and name the user with each call, ``{"configurable": {"user_id": "alice"}}``, of the runnable that
    the chain is a step of (a chain by itself does not hand its config on to its memory). A turn that a chain saves
    happened just now; an old conversation is brought in by ``memory.scope.remember(..., occurred_at=...)``.

    Attributes:
        memory: a store (``user_id`` then names the scope), or the scope itself.
        user_id: whose memories; None for the user that the call's config names, else the scope ``default``. It
            isolates: no other user's are ever read.
        session_id: the conversation that turns are remembered under; by default the ``session_id`` or ``thread_id`` of
            the call's config. Recall searches all of the user's.
        k: at most so many memories are recalled.
        max_tokens: at most so many tokens of them go into the prompt.
        memory_key: the prompt's variable for recalled memories.
        input_key: which input is the user's; None if there is only one.
        output_key: which output is the reply; None if there is only one, or one called ``output``.
        return_messages: whether the variable is a list of messages, for chat prompts, instead of a string.
            The quoted block is then a human message: what was recalled never speaks with the system's voice.
        recall_options: whatever else ``Scope.recall`` takes, e.g. ``{"trusted_only": True}``.
        mode: ``"decompress"`` and ``"auto"`` give text, which every model reads; ``"inject"`` gives a message with a
            block of ids, for a chain whose model is :class:`ChatNextMem` over the same scope, and needs
            ``return_messages``. A chain's memory does not see its model, so nothing is injected unasked.

    Raises:
        pydantic.ValidationError: an argument is unknown or malformed, or ``memory`` is another user's scope.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     memory = NextMemMemory(memory=store, user_id="alice")
        ...     memory.save_context({"input": "I moved to Lisbon."}, {"output": "How nice!"})
        ...     recalled = memory.load_memory_variables({"input": "Where did I move?"})
        >>> "> I moved to Lisbon." in recalled["history"]
        True
    """

    # A misspelt user_id must not end up as the default scope.
    model_config = ConfigDict(extra="forbid")

    memory: NextMem | Scope = Field(default_factory=lambda: NextMem.open(), exclude=True)
    user_id: str | None = None
    session_id: str | None = None
    k: int = 5
    max_tokens: int | None = 512
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    return_messages: bool = False
    recall_options: Annotated[Mapping[str, Any], AfterValidator(check_options)] = Field(default_factory=dict)
    mode: Literal["auto", "decompress", "inject"] = "auto"

    def model_post_init(self, _context: Any, /) -> None:
        """Find a malformed scope now, and not in the middle of a conversation."""
        scope_of(self.memory, self.user_id)
        check_recall(self.k, self.max_tokens)
        if self.mode == "inject" and not self.return_messages:
            raise InvalidArgument(
                "latents are injected by a message: mode='inject' needs return_messages=True"
            )

    @property
    def scope(self) -> Scope:
        """What is read and written, with all that the core can do: ``list``, ``forget``, ``remember``, …

        Raises:
            InvalidArgument: the present call's config names another user than ``user_id``.
        """
        return scope_of_call(self.memory, self.user_id)

    @property
    def memory_variables(self) -> list[str]:
        """The one variable this memory gives to a prompt."""
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What fits the input, quoted, under ``memory_key``; empty if nothing was recalled.

        Raises:
            InvalidArgument: it is not clear which input to recall for.
        """
        query = well_formed(self._input(inputs))
        hits = self.scope.recall(query, self.k, **self.recall_options) if query.strip() else ()
        if self.mode == "inject":
            return {self.memory_key: [HumanMessage([memory_block([hit.id for hit in hits])])] if hits else []}
        block = hits.as_prompt(self.max_tokens) if hits else ""
        if not self.return_messages:
            return {self.memory_key: block}
        return {self.memory_key: [HumanMessage(block)] if block else []}

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Remember the input and the reply, in one transaction, and nothing else of the chain's variables.

        An empty one is left out, and what ``on_remember`` refuses is a warning of ``langchain_nextmem.turns``: a
        chain that has done its work must not fail over it.

        Raises:
            InvalidArgument: it is not clear which input or output to remember, or whose; nothing was written.
        """
        turn = {"user": self._input(inputs), "assistant": self._output(outputs)}
        remember_turn(self.scope, turn, session_of_call(self.session_id))

    def clear(self) -> None:
        """Forget everything in this scope, of all sessions, and nothing in any other."""
        self.scope.clear()

    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Async twin of ``load_memory_variables``."""
        check_async_call(self.memory, self.user_id)
        return await super().aload_memory_variables(inputs)

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Async twin of ``save_context``."""
        check_async_call(self.memory, self.user_id)
        await super().asave_context(inputs, outputs)

    async def aclear(self) -> None:
        """Async twin of ``clear``."""
        check_async_call(self.memory, self.user_id)
        await super().aclear()

    def as_middleware(self, **settings: Any) -> NextMemMiddleware:
        """The same memory for ``langchain.agents.create_agent``.

        Args:
            **settings: what should differ, see :class:`NextMemMiddleware`.
        """
        taken = signature(NextMemMiddleware).parameters
        own = {name: getattr(self, name) for name in type(self).model_fields if name in taken}
        return NextMemMiddleware(**{**own, **settings})

    def _input(self, inputs: Mapping[str, Any]) -> str:
        # A chain hands over its inputs with the recalled variable among them; remembering that makes echoes.
        keys = [key for key in inputs if key not in (self.memory_key, "stop")]
        return self._text("input", inputs, self.input_key or self._only("input", keys))

    def _output(self, outputs: Mapping[str, Any]) -> str:
        keys = list(outputs)
        implied = "output" if len(keys) > 1 and "output" in keys else None
        return self._text("output", outputs, self.output_key or implied or self._only("output", keys))

    def _only(self, kind: str, keys: list[str]) -> str:
        if len(keys) != 1:
            raise InvalidArgument(
                f"the chain has {len(keys)} {kind}s ({', '.join(keys) or 'none'}), and memory takes one: "
                f"name it with NextMemMemory({kind}_key=...)"
            )
        return keys[0]

    def _text(self, kind: str, values: Mapping[str, Any], key: str) -> str:
        if key not in values:
            raise InvalidArgument(
                f"the chain has no {kind} {key!r}, only {', '.join(values) or 'none'}: correct {kind}_key"
            )
        value = values[key]
        if isinstance(value, list) and value:
            # A conversation's messages, of which the last is the turn's; else a message's content blocks.
            messages = all(isinstance(each, BaseMessage) for each in value)
            if messages or all(isinstance(each, str | dict) for each in value):
                value = value[-1] if messages else HumanMessage(value)
        if isinstance(value, BaseMessage):
            return str(value.text)
        if not isinstance(value, str):
            raise InvalidArgument(
                f"the {kind} {key!r} is a {type(value).__name__}; memory takes a string, a message or content blocks"
            )
        return value
