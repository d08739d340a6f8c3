"""``NextMemRetriever``: a scope as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from pydantic import AfterValidator, ConfigDict, Field

from langchain_nextmem.scopes import called_with, scope_of, scope_of_call
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope
from nextmem_agents.scope.options import check_options


class NextMemRetriever(BaseRetriever):
    """Recalls from one scope, best first.

    A document's ``id`` is the memory's, its ``page_content`` the text, and its ``metadata`` the memory's own
    with ``score`` (0..1, higher is better), ``role``, ``session``, ``occurred_at`` (ISO 8601) and ``exact``.

    Attributes:
        memory: a store (``user_id`` then names the scope), or the scope itself; by default the default store.
        user_id: whose memories; None for the user that the call's config names, else the scope ``default``.
        k: at most so many documents; ``invoke(query, k=...)`` for one call.
        where: only memories that match, e.g. ``{"role": "user"}``.
        recall_options: whatever else ``Scope.recall`` takes: ``{"recency": timedelta(days=30), "trusted_only": True}``.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     alice = store.scope("alice")
        ...     _ = alice.remember("She moved to Lisbon in May.", role="user")
        ...     NextMemRetriever(memory=alice, k=1).invoke("Where does she live?")[0].page_content
        'She moved to Lisbon in May.'
    """

    # A misspelt user_id must not end up as the default scope.
    model_config = ConfigDict(extra="forbid")

    memory: NextMem | Scope = Field(default_factory=lambda: NextMem.open(), exclude=True)
    user_id: str | None = None
    k: int = 5
    where: Mapping[str, Any] | None = None
    recall_options: Annotated[Mapping[str, Any], AfterValidator(check_options)] = Field(default_factory=dict)

    def model_post_init(self, _context: Any, /) -> None:
        """Find a malformed scope now, and not at the first question."""
        scope_of(self.memory, self.user_id)

    @property
    def scope(self) -> Scope:
        """What is read in the present call."""
        return scope_of_call(self.memory, self.user_id)

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:  # noqa: A002
        """The documents for a question; ``config={"configurable": {"user_id": "alice"}}`` names the user."""
        with called_with(config):
            return super().invoke(input, config, **kwargs)

    async def ainvoke(  # noqa: D102 - as invoke
        self,
        input: str,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        with called_with(config):
            return await super().ainvoke(input, config, **kwargs)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's form
        k: int | None = None,
    ) -> list[Document]:
        hits = self.scope.recall(query, self.k if k is None else k, where=self.where, **self.recall_options)
        return [
            Document(
                id=hit.id,
                page_content=hit.text,
                metadata={
                    **hit.metadata,
                    "score": hit.score,
                    "role": hit.role,
                    "session": hit.session,
                    "occurred_at": hit.occurred_at.isoformat() if hit.occurred_at else None,
                    "exact": hit.exact,
                },
            )
            for hit in hits
        ]
