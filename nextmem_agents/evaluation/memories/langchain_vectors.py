"""LangChain's ``VectorStoreRetrieverMemory`` as it is, over its in-memory vector store."""

from __future__ import annotations

import warnings
from typing import Any

from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories.embedding import Embedder
from nextmem_agents.evaluation.memories.memory import Recalled, quotations
from nextmem_agents.evaluation.readers.in_langchain import require_langchain

require_langchain()

from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_core.vectorstores import InMemoryVectorStore  # noqa: E402


class LangChainEmbeddings(Embeddings):
    """An embedder in LangChain's form."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts."""
        return [row.tolist() for row in self._embedder(texts)]

    def embed_query(self, text: str) -> list[float]:
        """Embed a question."""
        return [float(value) for value in self._embedder([text])[0]]


class LangChainVectorMemory:
    """What an application gets from ``VectorStoreRetrieverMemory``: lines ``speaker: text`` under a date, best first.

    Every turn is saved by ``save_context``, and recalled by ``load_memory_variables``. Neither knows ids; a turn is
    told by its text.
    """

    def __init__(self, embedder: Embedder, k: int):
        from langchain_classic.memory import VectorStoreRetrieverMemory

        store = InMemoryVectorStore(LangChainEmbeddings(embedder))
        with warnings.catch_warnings():
            # It is deprecated, and still what many applications run on: hence a baseline.
            warnings.simplefilter("ignore")
            self._memory: Any = VectorStoreRetrieverMemory(
                retriever=store.as_retriever(search_kwargs={"k": k}), input_key="question", return_docs=True
            )
        self._ids: dict[str, str] = {}

    def read(self, session: Session) -> None:
        """Save its turns, one call each."""
        for turn in quotations(session):
            said = {turn.role or "someone": turn.text}
            if turn.occurred_at:
                said = {"date": f"{turn.occurred_at:%Y-%m-%d %H:%M}", **said}
            self._memory.save_context(said, {})
            page = "\n".join(f"{name}: {value}" for name, value in said.items())
            self._ids.setdefault(page, turn.id)

    def recall(self, question: str) -> Recalled:
        """Its variable ``history``."""
        found = self._memory.load_memory_variables({"question": question})["history"]
        pages = [document.page_content for document in found]
        return Recalled("\n".join(pages), tuple(self._ids[page] for page in pages))
