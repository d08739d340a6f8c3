"""NextMem as memory, middleware and retriever of LangChain agents.

Each adapter translates LangChain's words into those of a :class:`nextmem_agents.Scope`, and keeps nothing.
"""

from nextmem_agents.errors import MissingExtra

try:
    from langchain_nextmem.blocks import memory_block
    from langchain_nextmem.chat_model import ChatNextMem
    from langchain_nextmem.history import NextMemChatMessageHistory
    from langchain_nextmem.memory import NextMemMemory
    from langchain_nextmem.middleware import NextMemMiddleware
    from langchain_nextmem.quoting import QuotingChatModel
    from langchain_nextmem.retriever import NextMemRetriever
    from langchain_nextmem.store import NextMemStore
    from langchain_nextmem.tools import memory_tools
    from langchain_nextmem.vector_store import NextMemVectorStore
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in ("langchain", "langchain_classic", "langchain_core", "langgraph"):
        raise
    raise MissingExtra(
        f'langchain_nextmem needs {package}, which is not installed: pip install "nextmem-agents[langchain]"'
    ) from error

__all__ = [
    "ChatNextMem",
    "NextMemChatMessageHistory",
    "NextMemMemory",
    "NextMemMiddleware",
    "NextMemRetriever",
    "NextMemStore",
    "NextMemVectorStore",
    "QuotingChatModel",
    "memory_block",
    "memory_tools",
]
