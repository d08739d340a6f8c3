"""NextMem as a retriever of LlamaIndex query engines.

The adapter translates LlamaIndex's words into those of a :class:`nextmem_agents.Scope`, and keeps nothing.
"""

from nextmem_agents.errors import MissingExtra

try:
    from llama_index_nextmem.retriever import NextMemRetriever
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    raise MissingExtra(
        f"llama_index_nextmem needs {error.name}, which is not installed: "
        'pip install "nextmem-agents[llama-index]"'
    ) from error

__all__ = ["NextMemRetriever"]
