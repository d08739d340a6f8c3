"""A LlamaIndex chat engine reads a long conversation and answers questions about it, beside LlamaIndex's own block.

    python examples/llama_index_locomo.py [locomo10.json] [codec] [reader]

Without a file: the conversation that ships with the package. LoCoMo's own is ``data/locomo10.json`` of
https://github.com/snap-research/locomo (CC BY-NC 4.0); its first conversation is read here. ``codec`` is "mini-16" or a
checkpoint folder. ``reader`` is "extractive" (the default: the best-matching sentence), "codec" (for a codec that can
answer), "llama-index:llama_index.llms.openai:OpenAI", "transformers:FOLDER" or the address of an OpenAI-compatible
server.

Each question is a new chat (``SimpleChatEngine``) whose ``Memory`` has one block: ``NextMemMemoryBlock`` in the first
row, LlamaIndex's ``VectorMemoryBlock`` in the last, over an embedder without weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nextmem_agents.evaluation.benchmark import locomo_benchmark
from nextmem_agents.evaluation.locomo import default_conversation
from nextmem_agents.evaluation.study import Study

MEMORIES = ["nextmem", "none", "bm25", "llama-index-vectors"]


def main(data: str | None = None, codec: str = "mini-16", reader: str = "extractive") -> None:
    """Read, ask, and print the table."""
    benchmark = locomo_benchmark(Path(data) if data else default_conversation()).cut(limit=1)
    study = Study(benchmark, codec, reader, framework="llama-index")
    with TemporaryDirectory() as folder:
        study.run(Path(folder), study.agents(MEMORIES), quiet=True)
        print(study.report(Path(folder), kept=False))


if __name__ == "__main__":
    main(*sys.argv[1:4])
