"""One LangGraph agent for many users: threads in a checkpointer, memories and notes in one store, offline.

    python examples/langgraph_agent.py [codec] [model]

``codec`` is "mini-16" or a checkpoint folder; ``model`` is "quote", or a hosted model by LangChain's name for it.

Who speaks is named with each call, in the context; no message and no tool argument can choose it. The agent forgets
its thread when a new one begins, and recalls what the user said in earlier ones. A tool keeps notes in LangGraph's own
store, which ``NextMemStore`` is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from langchain_nextmem import NextMemMiddleware, NextMemStore, QuotingChatModel
from nextmem_agents import NextMem

TURNS = [
    ("ann", "monday", "My flight to Oslo leaves on the third of June."),
    ("ben", "monday", "My flight to Rome leaves on the ninth of June."),
    ("ann", "friday", "When does my flight leave?"),
    ("ben", "friday", "When does my flight leave?"),
]


@dataclass
class Caller:
    """Who speaks."""

    user_id: str


def main(codec: str = "mini-16", model: str = "quote") -> None:
    """Let Ann and Ben talk to one agent, in turns, and look at what is kept."""
    with TemporaryDirectory() as folder, NextMem.open(folder, codec=codec) as memory:
        # The team's notes are a scope of their own, beside those of its users.
        notes = NextMemStore(memory, user_id="team-notes")
        chat: BaseChatModel | str = QuotingChatModel() if model == "quote" else model
        agent = create_agent(
            chat,
            middleware=[NextMemMiddleware(memory)],
            context_schema=Caller,
            checkpointer=InMemorySaver(),
            store=notes,
        )
        for user, day, line in TURNS:
            config: RunnableConfig = {"configurable": {"thread_id": f"{user}-{day}"}}
            result = agent.invoke(
                {"messages": [{"role": "user", "content": line}]}, config, context=Caller(user_id=user)
            )
            print(f"{user}, {day}: {line}\n  -> {result['messages'][-1].text}")

        notes.put(("office", "hours"), "vet", {"text": "The vet opens at ten.", "days": 5})
        notes.put(("office", "people"), "ana", {"text": "Ana runs the bakery.", "days": 6})
        print("\nnotes of the team")
        for item in notes.search(("office",), query="When does the vet open?", limit=1):
            print(f"  {'/'.join(item.namespace)}/{item.key}: {item.value['text']}")
        found = notes.search(("office",), filter={"days": {"$gte": 6}})
        print(f"  open on six days: {', '.join(item.key for item in found)}")

        print("\nscopes")
        for name in memory.scopes():
            print(f"  {name}: {memory.scope(name).count()} memories")


if __name__ == "__main__":
    main(*sys.argv[1:3])
