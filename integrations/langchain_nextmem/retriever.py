"""``NextMemRetriever``: a scope as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from langchain_nextmem.scopes import scope_of
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope


class NextMemRetriever(BaseRetriever):
    """Recalls from one scope, best first.

    A document's ``id`` is the memory's, its ``page_content`` the text, and its ``metadata`` the memory's own
    with ``score`` (0..1, higher is better), ``role``, ``session``, ``occurred_at`` (ISO 8601) and ``exact``.

    Attributes:
        memory: a store (``user_id`` then names the scope), or the scope itself; by default the default store.
        user_id: whose memories; None for the scope ``default``.
        k: at most so many documents; ``invoke(query, k=...)`` for one call.
        where: only memories that match, e.g. ``{"role": "user"}``.

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

    def model_post_init(self, _context: Any, /) -> None:
        """Find a malformed scope now, and not at the first question."""
        _ = self.scope

    @property
    def scope(self) -> Scope:
        """What is read."""
        return scope_of(self.memory, self.user_id)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain's form
        k: int | None = None,
    ) -> list[Document]:
        hits = self.scope.recall(query, self.k if k is None else k, where=self.where)
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
