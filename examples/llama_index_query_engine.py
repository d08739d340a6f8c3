"""A LlamaIndex query engine over an agent's memory, offline.

    python examples/llama_index_query_engine.py [reader]

The reader is "quote" (memories are quoted, not understood), "openai:MODEL" (a hosted model; needs
llama-index-llms-openai and a key), or a codec on Qwen3-8B, by folder or hub id: its own backbone reads the memories as
latents.
"""

from __future__ import annotations

import sys
from datetime import datetime
from tempfile import TemporaryDirectory

from llama_index.core.llms import LLM

from llama_index_nextmem import NextMemLLM, NextMemQueryEngine, QuotingLLM
from nextmem_agents import NextMem, Scope


def codec_of(reader: str) -> str:
    """The codec that remembers."""
    return "mini-16" if reader == "quote" or reader.startswith("openai:") else reader


def llm_of(reader: str, ann: Scope) -> LLM:
    """The LLM that answers."""
    if reader == "quote":
        return QuotingLLM()
    if reader.startswith("openai:"):
        from llama_index.llms.openai import OpenAI

        return OpenAI(model=reader.removeprefix("openai:"))
    return NextMemLLM(ann)


def main(reader: str = "quote") -> None:
    """Remember three notes, ask two questions, and print the answers with their sources."""
    with TemporaryDirectory() as folder, NextMem.open(folder, codec=codec_of(reader)) as store:
        ann = store.scope("ann")
        notes = ["I moved into a flat in Lisbon.", "Rufus sees the vet on Friday.", "I like jazz."]
        ann.remember(notes, role="Ann", occurred_at=[datetime(2025, 5, day) for day in (3, 7, 8)])
        engine = NextMemQueryEngine(ann, llm=llm_of(reader, ann), k=2)
        for question in ("Where did Ann move?", "When does Rufus see the vet?"):
            response = engine.query(question)
            print(f"{question}\n  {response}")
            for source in response.source_nodes:
                mode = response.metadata[source.node_id]["mode"]
                print(f"    {source.score:.2f}  {source.metadata['occurred_at'][:10]}  {mode}  {source.text}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
