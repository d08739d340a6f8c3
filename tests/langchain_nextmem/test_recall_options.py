"""What ``Scope.recall`` can do is within reach of every adapter, and so are LangChain's own rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import HumanMessage
from pydantic import ValidationError

from langchain_nextmem import NextMemMemory, NextMemMiddleware, NextMemRetriever
from nextmem_agents import InvalidArgument, NextMem, Scope
from tests.langchain_nextmem.conftest import ScriptedModel
from tests.scope.conftest import fake, open_fake  # noqa: F401 - fixtures

TRUSTED: dict[str, Any] = {"trusted_only": True}


@pytest.fixture
def ann(fake: NextMem) -> Scope:  # noqa: F811
    scope = fake.scope("ann")
    scope.remember(["The key is under the mat.", "The key is with the neighbour."], role=["user", "tool"])
    return scope


def test_they_reach_recall_through_every_adapter(ann: Scope) -> None:
    def found(**settings: Any) -> tuple[int, bool, bool]:
        documents = NextMemRetriever(memory=ann, **settings).invoke("key")
        block = NextMemMemory(memory=ann, **settings).load_memory_variables({"input": "key"})["history"]
        model = ScriptedModel(lines=["Under the mat."])
        middleware = NextMemMiddleware(ann, remember=False, **settings)
        create_agent(model, middleware=[middleware]).invoke({"messages": [HumanMessage("key?")]})
        return len(documents), "neighbour" in block, "neighbour" in model.last

    assert found() == (2, True, True)
    assert found(recall_options=TRUSTED) == (1, False, False)


def test_an_unknown_option_is_found_when_the_adapter_is_made(ann: Scope) -> None:
    wrong = {"trusted": True}
    for adapter in (NextMemRetriever, NextMemMemory):
        with pytest.raises(ValidationError, match="recall takes no option 'trusted'"):
            adapter(memory=ann, recall_options=wrong)
    with pytest.raises(InvalidArgument, match="recall takes no option 'trusted'"):
        NextMemMiddleware(ann, recall_options=wrong)


class Longest(BaseDocumentCompressor):
    """A reranker of LangChain's kind."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> list[Document]:
        return sorted(documents, key=lambda document: -len(document.page_content))[:1]


def test_a_reranker_of_langchains_kind_stands_around_the_retriever(ann: Scope) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=Longest(), base_retriever=NextMemRetriever(memory=ann)
    )
    assert [document.page_content for document in retriever.invoke("key")] == [
        "The key is with the neighbour."
    ]
