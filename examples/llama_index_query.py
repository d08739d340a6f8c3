"""A LlamaIndex query engine over an agent's memory, offline.

    python examples/llama_index_query.py [codec]

The LLM here only repeats the passage it was given first; put any LlamaIndex LLM in its place. The codec is
"mini" or a folder.
"""

from __future__ import annotations

import sys
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer

from llama_index_nextmem import NextMemRetriever
from nextmem_agents import NextMem


class FirstPassage(CustomLLM):
    """Answers with the first passage of LlamaIndex's prompt: no intelligence, no network."""

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know about a model."""
        return LLMMetadata(context_window=4096, num_output=128, model_name="first-passage")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:  # noqa: ARG002
        """The first passage between the prompt's rules; its metadata stands before it, and a blank line."""
        return CompletionResponse(text=prompt.split("---------------------")[1].split("\n\n")[1])

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The same in one piece."""
        yield self.complete(prompt, formatted, **kwargs)


def main(codec: str = "mini") -> None:
    """Remember three notes, ask two questions, and print the answers with their sources."""
    with TemporaryDirectory() as folder, NextMem.open(folder, codec=codec) as store:
        ann = store.scope("ann")
        notes = ["I moved into a flat in Lisbon.", "Rufus sees the vet on Friday.", "I like jazz."]
        ann.remember(notes, role="Ann", occurred_at=[datetime(2025, 5, day) for day in (3, 7, 8)])
        synthesizer = get_response_synthesizer(llm=FirstPassage())
        engine = RetrieverQueryEngine(retriever=NextMemRetriever(ann, k=2), response_synthesizer=synthesizer)
        for question in ("Where did Ann move?", "When does Rufus see the vet?"):
            response = engine.query(question)
            print(f"{question}\n  {response}")
            for source in response.source_nodes:
                print(f"    {source.score:.2f}  {source.metadata['occurred_at'][:10]}  {source.text}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
