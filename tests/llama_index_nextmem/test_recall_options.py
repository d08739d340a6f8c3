"""What ``Scope.recall`` can do is within reach of every adapter, and so are LlamaIndex's own rerankers."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import ValidationError

from llama_index_nextmem import NextMemMemoryBlock, NextMemQueryEngine, NextMemRetriever
from nextmem_agents import InvalidArgument, NextMem, Scope
from tests.llama_index_nextmem.conftest import ScriptedLLM
from tests.scope.conftest import fake, open_fake  # noqa: F401 - fixtures

TRUSTED: dict[str, Any] = {"trusted_only": True}


@pytest.fixture
def ann(fake: NextMem) -> Scope:  # noqa: F811
    scope = fake.scope("ann")
    scope.remember(["The key is under the mat.", "The key is with the neighbour."], role=["user", "tool"])
    return scope


async def test_they_reach_recall_through_every_adapter(ann: Scope) -> None:
    async def found(**settings: Any) -> tuple[int, bool, bool, int]:
        nodes = NextMemRetriever(ann, **settings).retrieve("key")
        block = await NextMemMemoryBlock(memory=ann, **settings).aget([ChatMessage("key")])
        llm = ScriptedLLM(lines=["x"])
        response = NextMemQueryEngine(ann, llm=llm, **settings).query("key")
        return (
            len(nodes),
            "neighbour" in str(block),
            "neighbour" in str(llm.prompts),
            len(response.source_nodes),
        )

    assert await found() == (2, True, True, 2)
    assert await found(recall_options=TRUSTED) == (1, False, False, 1)


def test_an_unknown_option_is_found_when_the_adapter_is_made(ann: Scope) -> None:
    wrong = {"trusted": True}
    for adapter in (NextMemRetriever, NextMemQueryEngine):
        with pytest.raises(InvalidArgument, match="recall takes no option 'trusted'"):
            adapter(ann, recall_options=wrong)
    with pytest.raises(ValidationError, match="recall takes no option 'trusted'"):
        NextMemMemoryBlock(memory=ann, recall_options=wrong)


def test_a_brought_embedding_goes_before_words_and_needs_no_text(ann: Scope) -> None:
    text = "The key is with the neighbour."
    vector = ann.codec.index_vectors(ann.codec.encode([text]))[0].tolist()
    for query in ("mat", ""):
        (node,) = NextMemRetriever(ann, k=1).retrieve(QueryBundle(query, embedding=vector))
        assert (node.text, node.score) == (text, pytest.approx(1.0, abs=1e-6))


class Longest(BaseNodePostprocessor):
    """A reranker of LlamaIndex's kind."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return sorted(nodes, key=lambda node: -len(node.text))[:1]


def test_a_reranker_of_llama_indexs_kind_stands_in_the_engine(ann: Scope) -> None:
    llm = ScriptedLLM(lines=["x"])
    response = NextMemQueryEngine(ann, llm=llm, node_postprocessors=[Longest()]).query("key")
    assert [node.text for node in response.source_nodes] == ["The key is with the neighbour."]
