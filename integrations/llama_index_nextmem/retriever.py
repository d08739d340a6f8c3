"""``NextMemRetriever``: a scope as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, get_args

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores import MetadataFilters

from llama_index_nextmem.filters import as_where
from llama_index_nextmem.nodes import as_node
from llama_index_nextmem.scopes import scope_of
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Ranking, Scope
from nextmem_agents.scope.options import check_options


class NextMemRetriever(BaseRetriever):
    """Recalls from one scope, best first, for ``RetrieverQueryEngine`` and all else that takes a retriever.

    A node's ``node_id`` is the memory's id, its ``text`` the text, and its ``metadata`` the memory's own with
    ``memory_id``, ``scope``, ``role``, ``session``, ``occurred_at`` (ISO 8601) and ``exact``, as far as they are
    known: what a trace or a response shows of a memory is its id, never its latents. The model reads who said it and
    when; all other metadata stays out of its prompt, and all of it out of embeddings.

    A query's ``custom_embedding_strs`` (of ``HyDEQueryTransform``, for one) are searched in place of its text. Its
    ``embedding``, where it has one, is itself what is searched for, by cosine to the index vectors ([P] floats, of
    ``codec.index_vectors`` or of the memory's embedder), and words count for nothing then.

    Args:
        memory: a scope; or a store, for its scope ``default``; the default store if left out.
        k: at most so many nodes.
        where: only memories that match, e.g. ``{"role": "user"}``.
        filters: LlamaIndex's own form of the same, ANDed with it: ``==  !=  >  >=  <  <=  in``.
        ranking: ``"hybrid"``, ``"latent"`` or ``"lexical"``; see ``Scope.recall``.
        recall_options: whatever else ``Scope.recall`` takes: ``{"recency": timedelta(days=30), "trusted_only": True}``.
        callback_manager: LlamaIndex's own.
        verbose: LlamaIndex's own.

    Raises:
        InvalidArgument: a filter that the store does not have, an unknown option or ranking, or no memory.

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
        filters: MetadataFilters | None = None,
        ranking: Ranking = "hybrid",
        recall_options: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        if ranking not in get_args(Ranking):
            raise InvalidArgument(f"ranking is one of {', '.join(get_args(Ranking))}, not {ranking!r:.80}")
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self.where = as_where(filters, where)
        self.scope = scope_of(memory)
        self.k = k
        self.ranking = ranking
        self.recall_options = check_options(recall_options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query, how = "\n".join(query_bundle.embedding_strs), {"ranking": self.ranking, **self.recall_options}
        if query_bundle.embedding is not None:
            how |= {"ranking": "latent", "vector": query_bundle.embedding}
        hits = self.scope.recall(query, self.k, where=self.where, **how)
        return [NodeWithScore(node=as_node(hit, self.scope), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # In a thread with the decoding of what was recalled; LlamaIndex's default blocks the event loop.
        return await asyncio.to_thread(self._retrieve, query_bundle)
