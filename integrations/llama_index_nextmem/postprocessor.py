"""``QuotingPostprocessor``: memories as quoted records, for LlamaIndex's own synthesizers and chat engines."""

from __future__ import annotations

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_nextmem.nodes import MEMORY_ID, Quotation
from nextmem_agents.recall.rendering import HEADING, render_one


class QuotingPostprocessor(BaseNodePostprocessor):
    """Puts the text of each memory's node in quotes, with who said it and when, as all other adapters do.

    The last one in ``node_postprocessors``, after whatever reads the texts. Each node is quoted by itself, since a
    synthesizer may show them to the model one by one; nodes that are no memories stay as they are.
    :class:`NextMemSynthesizer` and :class:`NextMemQueryEngine` quote by themselves.

    Examples:
        >>> from llama_index_nextmem import NextMemRetriever
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     ann = store.scope("ann")
        ...     _ = ann.remember("I moved to Lisbon.", role="user")
        ...     nodes = NextMemRetriever(ann, k=1).retrieve("Where did I move?")
        ...     print(QuotingPostprocessor().postprocess_nodes(nodes)[0].text.split("\\n", 1)[1])
        [1] user:
        > I moved to Lisbon.
    """

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for it."""
        return "QuotingPostprocessor"

    def _postprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,  # noqa: ARG002 - LlamaIndex's form
    ) -> list[NodeWithScore]:
        return [
            _quoted(each, number) if MEMORY_ID in each.node.metadata else each
            for number, each in enumerate(nodes, 1)
        ]


def _quoted(given: NodeWithScore, number: int) -> NodeWithScore:
    known = given.node.metadata
    node = TextNode(
        id_=given.node.node_id,
        text=f"{HEADING}\n{render_one(Quotation.of(given), number)}",
        metadata=known,
        excluded_llm_metadata_keys=list(known),  # who said it and when is in the quotation
        excluded_embed_metadata_keys=list(known),
    )
    return NodeWithScore(node=node, score=given.score)
