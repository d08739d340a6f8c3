"""``NextMemQueryEngine``: questions to one scope, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.vector_stores import MetadataFilters

from llama_index_nextmem.retriever import NextMemRetriever
from llama_index_nextmem.scopes import scope_of
from llama_index_nextmem.synthesizer import NextMemSynthesizer
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Mode, Ranking, Scope


class NextMemQueryEngine(RetrieverQueryEngine):
    """A ``RetrieverQueryEngine`` of :class:`NextMemRetriever` and :class:`NextMemSynthesizer` over one scope.

    Args:
        memory: a scope; or a store, for its scope ``default``; the default store if left out.
        llm: who answers; by default the codec's own backbone.
        mode: ``"inject"``, ``"decompress"``, ``"mixed"`` or ``"auto"``; see :class:`NextMemSynthesizer`.
        k: at most so many memories.
        where: only memories that match.
        filters: LlamaIndex's own form of the same.
        ranking: see ``Scope.recall``.
        recall_options: whatever else ``Scope.recall`` takes.
        node_postprocessors: LlamaIndex's own, between recall and answer.
        callback_manager: LlamaIndex's own.
        **settings: of the synthesizer: ``streaming``, ``text_qa_template`` …

    Examples:
        >>> from llama_index_nextmem import QuotingLLM
        >>> with NextMem.open(":memory:") as store:
        ...     ann = store.scope("ann")
        ...     _ = ann.remember(["I moved to Lisbon in May.", "Rufus is my dog."], role="user")
        ...     str(NextMemQueryEngine(ann, llm=QuotingLLM()).query("Where did I move?"))
        'I moved to Lisbon in May.'
    """

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        llm: LLM | None = None,
        mode: Mode = "auto",
        k: int = 5,
        where: Mapping[str, Any] | None = None,
        filters: MetadataFilters | None = None,
        ranking: Ranking = "hybrid",
        recall_options: Mapping[str, Any] | None = None,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
        callback_manager: CallbackManager | None = None,
        **settings: Any,
    ) -> None:
        scope = scope_of(memory)
        super().__init__(
            retriever=NextMemRetriever(
                scope,
                k=k,
                where=where,
                filters=filters,
                ranking=ranking,
                recall_options=recall_options,
                callback_manager=callback_manager,
            ),
            response_synthesizer=NextMemSynthesizer(
                scope, llm=llm, mode=mode, callback_manager=callback_manager, **settings
            ),
            node_postprocessors=node_postprocessors,
            callback_manager=callback_manager,
        )
