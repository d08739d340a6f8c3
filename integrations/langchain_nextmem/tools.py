"""Tools with which a model remembers and recalls by itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any, TypeAlias

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.prebuilt import InjectedState

from langchain_nextmem.scopes import called_with, check_recall, scope_of, scope_of_call, session_of_call
from langchain_nextmem.turns import well_formed
from nextmem_agents.errors import EmptyText, MemoryRefused
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope

State: TypeAlias = Any  # of an agent a dictionary; None where there is no graph


def memory_tools(
    memory: NextMem | Scope,
    *,
    user_id: str | None = None,
    session_id: str | None = None,
    k: int = 5,
    max_tokens: int | None = 512,
) -> list[BaseTool]:
    """``remember`` and ``recall``, for any agent.

    Whose memories they are is fixed here, or named by the call's config or context; it is no argument of a tool, so
    that no model and no message can choose it.

    Args:
        memory: a store (``user_id`` then names the scope), or the scope itself.
        user_id: whose memories; None for the user that the call names, else the scope ``default``.
        session_id: the conversation that is remembered under; by default the call's ``session_id`` or ``thread_id``.
        k: at most so many memories are recalled.
        max_tokens: at most so many tokens of them are shown.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     remember, recall = memory_tools(store, user_id="alice")
        ...     remember.invoke({"text": "The spare key is under the blue pot."})
        ...     "> The spare key is under the blue pot." in recall.invoke({"query": "Where is the spare key?"})
        'Remembered.'
        True
    """
    scope_of(memory, user_id)
    check_recall(k, max_tokens)
    return tools_over(
        lambda _: scope_of_call(memory, user_id), lambda _: session_of_call(session_id), k, max_tokens
    )


def tools_over(
    scope: Callable[[State], Scope],
    session: Callable[[State], str | None],
    k: int = 5,
    max_tokens: int | None = 512,
) -> list[BaseTool]:
    """The same over a scope and a session that are known from the call, or from the state of the agent's run."""

    # LangChain hands the call's config and the run's state to a tool by arguments which the model does not see.
    def remember(text: str, config: RunnableConfig, state: Annotated[State, InjectedState] = None) -> str:
        """Remember a fact for later conversations. Write it as a whole sentence that is clear by itself."""
        try:
            with called_with(config):
                scope(state).remember(
                    well_formed(text),
                    role="assistant",
                    session=session(state),
                    occurred_at=datetime.now(timezone.utc),
                )
        except (EmptyText, MemoryRefused) as error:  # the model's doing, which the run goes on after
            return f"Not remembered: {error}"
        return "Remembered."

    def recall(query: str, config: RunnableConfig, state: Annotated[State, InjectedState] = None) -> str:
        """Search what was remembered in earlier conversations. Ask with the words that the answer may have."""
        try:
            with called_with(config):
                hits = scope(state).recall(well_formed(query), k)
        except EmptyText as error:
            return f"Nothing was found: {error}"
        return hits.as_prompt(max_tokens) or "Nothing was found."

    return [StructuredTool.from_function(remember), StructuredTool.from_function(recall)]
