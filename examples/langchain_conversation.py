"""Two users of one ``ConversationChain`` application, offline.

    python examples/langchain_conversation.py [codec]

Each user's ``NextMemMemory`` reads and writes that user's scope and no other. The model quotes what it was
given (``QuotingChatModel``); put any model in its place. The codec is "mini-16" or a folder.
"""

from __future__ import annotations

import sys
import warnings
from tempfile import TemporaryDirectory

from langchain_classic.chains import ConversationChain
from langchain_core._api import LangChainDeprecationWarning

from langchain_nextmem import NextMemMemory, QuotingChatModel
from nextmem_agents import NextMem

# LangChain prefers create_agent today (see langchain_agent.py); applications built on chains live on.
warnings.filterwarnings("ignore", category=LangChainDeprecationWarning)


def main(codec: str = "mini-16") -> None:
    """Let Ann and Ben talk, and print it."""
    with TemporaryDirectory() as folder, NextMem.open(folder, codec=codec) as store:
        memories = {name: NextMemMemory(memory=store, user_id=name) for name in ("Ann", "Ben")}
        chains = {name: ConversationChain(llm=QuotingChatModel(), memory=m) for name, m in memories.items()}

        def say(name: str, line: str) -> None:
            print(f"{name}: {line}\n  -> {chains[name].invoke({'input': line})['response']}")

        say("Ann", "My flight to Oslo leaves on the third of June.")
        say("Ben", "My flight to Rome leaves on the ninth of June.")
        say("Ann", "When does my flight leave?")
        say("Ben", "When does my flight leave?")

        memories["Ann"].clear()
        print("(Ann's memory is cleared)")
        say("Ann", "When does my flight leave?")
        say("Ben", "Where does my flight go?")


if __name__ == "__main__":
    main(*sys.argv[1:2])
