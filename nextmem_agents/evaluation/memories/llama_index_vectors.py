"""LlamaIndex's ``VectorMemoryBlock`` as it is, over a vector store that keeps text, which its core has none of."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories.embedding import Embedder
from nextmem_agents.evaluation.memories.memory import Recalled, quotations
from nextmem_agents.evaluation.readers.in_llama_index import require_llama_index

require_llama_index()

from llama_index.core.base.embeddings.base import BaseEmbedding  # noqa: E402
from llama_index.core.base.llms.types import ChatMessage, MessageRole  # noqa: E402
from llama_index.core.memory import VectorMemoryBlock  # noqa: E402
from llama_index.core.schema import BaseNode  # noqa: E402
from llama_index.core.vector_stores.types import (  # noqa: E402
    BasePydanticVectorStore,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from pydantic import ConfigDict, Field, PrivateAttr  # noqa: E402

_MESSAGE = re.compile(r"<message role='\w+'>.*?</message>", re.DOTALL)


class LlamaIndexEmbeddings(BaseEmbedding):
    """An embedder in LlamaIndex's form."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    embedder: Any = Field(exclude=True)

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(value) for value in self.embedder([text])[0]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class TextVectorStore(BasePydanticVectorStore):
    """Nodes in a list, searched by cosine; everything in it is one session's."""

    stores_text: bool = True
    _nodes: list[BaseNode] = PrivateAttr(default_factory=list)
    _matrix: Any = PrivateAttr(default=None)

    @property
    def client(self) -> None:
        """There is none."""
        return None

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002 - LlamaIndex's form
        """Append nodes that have embeddings."""
        self._nodes += nodes
        self._matrix = None
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """Remove the nodes of a document."""
        self._nodes = [node for node in self._nodes if node.ref_doc_id != ref_doc_id]
        self._matrix = None

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:  # noqa: ARG002
        """The nearest nodes; of equals, the earlier first."""
        if not self._nodes:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        if self._matrix is None:
            self._matrix = np.array([node.get_embedding() for node in self._nodes], np.float32)
        similarity = self._matrix @ np.array(query.query_embedding, np.float32)
        best = np.argsort(-similarity, kind="stable")[: query.similarity_top_k]
        nodes = [self._nodes[i] for i in best]
        return VectorStoreQueryResult(
            nodes=nodes, similarities=[float(similarity[i]) for i in best], ids=[n.node_id for n in nodes]
        )


class LlamaIndexVectorMemory:
    """What an application gets from ``VectorMemoryBlock``: messages in tags, best first.

    Turns are put one by one, as messages of the user that begin with the date and the speaker: the block keeps neither.
    It knows no ids; a turn is told by its text.

    Attributes:
        block: the block itself, for a chat engine's ``Memory``.
    """

    def __init__(self, embedder: Embedder, k: int):
        self.block = VectorMemoryBlock(
            vector_store=TextVectorStore(),
            embed_model=LlamaIndexEmbeddings(embedder=embedder, model_name=embedder.name),
            similarity_top_k=k,
        )
        self._ids: dict[str, str] = {}

    def read(self, session: Session) -> None:
        """Put its turns into the block."""
        asyncio.run(self._put(session))

    async def _put(self, session: Session) -> None:
        for turn in quotations(session):
            when = f"({turn.occurred_at:%Y-%m-%d %H:%M}) " if turn.occurred_at else ""
            text = f"{when}{turn.role or 'someone'}: {turn.text}"
            await self.block.aput([ChatMessage(role=MessageRole.USER, content=text)])
            self._ids.setdefault(f"<message role='user'>{text}</message>", turn.id)

    def recall(self, question: str) -> Recalled:
        """What the block gives for a chat whose last message is the question."""
        text = asyncio.run(self.block.aget([ChatMessage(role=MessageRole.USER, content=question)]))
        return Recalled(text, self.ids_in(text))

    def ids_in(self, text: str) -> tuple[str, ...]:
        """The turns whose messages stand in a text, in their order there."""
        return tuple(self._ids[found] for found in _MESSAGE.findall(text) if found in self._ids)
