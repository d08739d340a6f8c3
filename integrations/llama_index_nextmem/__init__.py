"""NextMem as LlamaIndex knows it: a retriever, a memory, a query engine, an LLM.

The adapters translate LlamaIndex's words into those of a :class:`nextmem_agents.Scope`, and keep nothing.
"""

from nextmem_agents.errors import MissingExtra

try:
    from llama_index_nextmem.block import NextMemMemoryBlock
    from llama_index_nextmem.llm import NextMemLLM
    from llama_index_nextmem.memory import NextMemMemory
    from llama_index_nextmem.postprocessor import QuotingPostprocessor
    from llama_index_nextmem.query_engine import NextMemQueryEngine
    from llama_index_nextmem.quoting import QuotingLLM
    from llama_index_nextmem.retriever import NextMemRetriever
    from llama_index_nextmem.synthesizer import NextMemSynthesizer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    raise MissingExtra(
        f"llama_index_nextmem needs {error.name}, which is not installed: "
        'pip install "nextmem-agents[llama-index]"'
    ) from error

__all__ = [
    "NextMemLLM",
    "NextMemMemory",
    "NextMemMemoryBlock",
    "NextMemQueryEngine",
    "NextMemRetriever",
    "NextMemSynthesizer",
    "QuotingLLM",
    "QuotingPostprocessor",
]
