"""``NextMemRetriever``: a scope as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Hit
from nextmem_agents.scope import Scope

_FOR_THE_MODEL = ("role", "occurred_at")


class NextMemRetriever(BaseRetriever):
    """Recalls from one scope, best first, for ``RetrieverQueryEngine`` and all else that takes a retriever.

    A node's ``node_id`` is the memory's id, its ``text`` the text, and its ``metadata`` the memory's own with
    ``role``, ``session``, ``occurred_at`` (ISO 8601) and ``exact``, as far as they are known. The model reads
    who said it and when; all other metadata stays out of its prompt, and all of it out of embeddings.

    Args:
        memory: a scope; or a store, for its scope ``default``; the default store if left out.
        k: at most so many nodes.
        where: only memories that match, e.g. ``{"role": "user"}``.
        callback_manager: LlamaIndex's own.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     alice = store.scope("alice")
        ...     _ = alice.remember("She moved to Lisbon in May.", role="user")
        ...     NextMemRetriever(alice, k=1).retrieve("Where does she live?")[0].text
        'She moved to Lisbon in May.'
    """

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        k: int = 5,
        where: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        memory = NextMem.open() if memory is None else memory
        self.scope = memory.scope() if isinstance(memory, NextMem) else memory
        self.k = k
        self.where = where

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self.scope.recall(query_bundle.query_str, self.k, where=self.where)
        return [NodeWithScore(node=_as_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # In a thread with the decoding of what was recalled; LlamaIndex's default blocks the event loop.
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _as_node(hit: Hit) -> TextNode:
    text = hit.text
    known = {
        "role": hit.role,
        "session": hit.session,
        "occurred_at": hit.occurred_at.isoformat() if hit.occurred_at else None,
        "exact": hit.exact,
    }
    metadata = {**hit.metadata, **{key: value for key, value in known.items() if value is not None}}
    return TextNode(
        id_=hit.id,
        text=text,
        metadata=metadata,
        excluded_llm_metadata_keys=[key for key in metadata if key not in _FOR_THE_MODEL],
        excluded_embed_metadata_keys=list(metadata),
    )
