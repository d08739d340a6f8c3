"""A LlamaIndex agent that remembers between conversations, offline.

    python examples/llama_index_agent.py [reader]

Three conversations, each with a fresh agent and a fresh chat memory: what carries over is in the store alone. The
reader is "quote" (memories are quoted, not understood), "openai:MODEL" (a hosted model; needs llama-index-llms-openai
and a key), or a codec on Qwen3-8B, by folder or hub id: its own backbone reads the memories as latents.
"""

from __future__ import annotations

import asyncio
import sys
from tempfile import TemporaryDirectory

from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.llms import LLM

from llama_index_nextmem import NextMemLLM, NextMemMemory, QuotingLLM
from nextmem_agents import NextMem, Scope

CONVERSATIONS = {
    "monday": ["I moved to Lisbon in May, into a flat above a bakery.", "My dog is called Rufus."],
    "tuesday": ["Rufus has to see the vet on Friday at ten."],
    "friday": ["Where did I move?", "When does Rufus see the vet?"],
}


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


async def talk(ann: Scope, llm: LLM) -> None:
    """Hold the conversations and print them."""
    mode = "inject" if isinstance(llm, NextMemLLM) else "decompress"
    for session, lines in CONVERSATIONS.items():
        memory = NextMemMemory.from_defaults(ann, session_id=session, mode=mode)
        agent = ReActAgent(tools=[], llm=llm)
        print(f"\n{session}")
        for line in lines:
            reply = await agent.run(line, memory=memory)
            print(f"  Ann:   {line}\n  Agent: {reply}")

    print("\nremembered for Ann:")
    async for remembered in ann.alist():
        print(f"  {remembered.session}, {remembered.role}: {remembered.text}")


def main(reader: str = "quote") -> None:
    """Talk over a store in a folder that goes away again."""
    with TemporaryDirectory() as folder, NextMem.open(folder, codec=codec_of(reader)) as store:
        ann = store.scope("ann")
        asyncio.run(talk(ann, llm_of(reader, ann)))


if __name__ == "__main__":
    main(*sys.argv[1:2])
