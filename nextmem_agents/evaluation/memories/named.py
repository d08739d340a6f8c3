"""Text memories by the names that a command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.memories.embedding import Embedder, EmbeddingMemory
from nextmem_agents.evaluation.memories.memory import TextMemory
from nextmem_agents.evaluation.memories.text import Bm25Memory, LatestTurns, NoMemory

NONE, FULL, WINDOW, BM25, EMBEDDING = "none", "full", "window", "bm25", "embedding"
LANGCHAIN_VECTORS, LLAMA_INDEX_VECTORS = "langchain-vectors", "llama-index-vectors"
TEXT_MEMORIES = (NONE, WINDOW, FULL, BM25, EMBEDDING, LANGCHAIN_VECTORS, LLAMA_INDEX_VECTORS)


@dataclass(frozen=True)
class TextSettings:
    """What text memories are made with.

    Attributes:
        k: memories recalled for a question.
        max_tokens: budget of what is recalled.
        full_tokens: budget of the full context.
        count: the tokens of a text.
        embedder: makes the embedder, once it is needed.
    """

    k: int
    max_tokens: int
    full_tokens: int
    count: Callable[[str], int]
    embedder: Callable[[], Embedder]


def make_text_memory(name: str, settings: TextSettings) -> TextMemory:
    """A new, empty memory.

    Raises:
        InvalidArgument: there is none of this name.
        MissingExtra: the framework whose memory it is, is not installed.
    """
    k, count, budget = settings.k, settings.count, settings.max_tokens
    if name == NONE:
        return NoMemory()
    if name == WINDOW:
        return LatestTurns(count, budget)
    if name == FULL:
        return LatestTurns(count, settings.full_tokens)
    if name == BM25:
        return Bm25Memory(k, count, budget)
    if name == EMBEDDING:
        return EmbeddingMemory(settings.embedder(), k, count, budget)
    if name == LANGCHAIN_VECTORS:
        from nextmem_agents.evaluation.memories.langchain_vectors import LangChainVectorMemory

        return LangChainVectorMemory(settings.embedder(), k)
    if name == LLAMA_INDEX_VECTORS:
        from nextmem_agents.evaluation.memories.llama_index_vectors import LlamaIndexVectorMemory

        return LlamaIndexVectorMemory(settings.embedder(), k)
    raise InvalidArgument(f"there is no memory {name!r}; memories are nextmem, {', '.join(TEXT_MEMORIES)}")
