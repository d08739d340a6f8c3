"""A LangChain agent that remembers between conversations, offline.

    python examples/langchain_agent.py [codec] [model]

Three conversations, each with a fresh agent: what carries over is in the memory alone. ``codec`` is "mini-16" or a
checkpoint folder. ``model`` is "quote" (the default: ``QuotingChatModel``, which quotes what it was given), "codec"
(the codec's own backbone, ``ChatNextMem``, which is given latents: for a codec on Qwen3-8B), or any hosted model that
LangChain knows by name, such as "anthropic:claude-sonnet-4-5".
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel

from langchain_nextmem import ChatNextMem, NextMemMemory, QuotingChatModel
from nextmem_agents import NextMem

CONVERSATIONS = {
    "monday": ["I moved to Lisbon in May, into a flat above a bakery.", "My dog is called Rufus."],
    "tuesday": ["Rufus has to see the vet on Friday at ten."],
    "friday": ["Where did I move?", "When does Rufus see the vet?"],
}


def chat_model(name: str, store: NextMem) -> BaseChatModel | str:
    """The model by its name on the command line."""
    if name == "quote":
        return QuotingChatModel()
    return ChatNextMem(codec=store.codec, max_tokens=64) if name == "codec" else name


def main(codec: str = "mini-16", model: str = "quote") -> None:
    """Hold the conversations and print them."""
    with TemporaryDirectory() as folder, NextMem.open(folder, codec=codec) as store:
        for session, lines in CONVERSATIONS.items():
            # NextMemMemory() alone opens the default store; here it is a folder that goes away again.
            memory = NextMemMemory(memory=store, user_id="ann", session_id=session)
            agent = create_agent(chat_model(model, store), middleware=[memory.as_middleware()])
            print(f"\n{session}")
            for line in lines:
                reply = agent.invoke({"messages": [{"role": "user", "content": line}]})["messages"][-1]
                print(f"  Ann:   {line}\n  Agent: {reply.text}")

        print("\nremembered for Ann:")
        for remembered in store.scope("ann").list():
            print(f"  {remembered.session}, {remembered.role}: {remembered.text}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
