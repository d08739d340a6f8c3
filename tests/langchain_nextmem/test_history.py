"""NextMemChatMessageHistory: a session's messages come back as they were said."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_nextmem import NextMemChatMessageHistory, NextMemRetriever
from nextmem_agents import NextMem

MESSAGES: list[Any] = [
    SystemMessage("Be brief."),
    HumanMessage("I moved to Lisbon\nin May. 🎉", name="ann", id="m1"),
    AIMessage(
        "", tool_calls=[{"name": "weather", "args": {"city": "Lisbon"}, "id": "c1", "type": "tool_call"}]
    ),
    ToolMessage("Sunny.", tool_call_id="c1"),
    HumanMessage([{"type": "text", "text": "And Oslo?"}]),
    AIMessage("Rain.", response_metadata={"model_name": "x"}),
    HumanMessage(" "),
]


@pytest.fixture
def history(memory: NextMem) -> NextMemChatMessageHistory:
    return NextMemChatMessageHistory("s1", memory, user_id="alice")


def test_messages_of_every_kind_come_back_as_they_were(history: NextMemChatMessageHistory) -> None:
    history.add_messages(MESSAGES[:3])
    history.add_messages(MESSAGES[3:])
    history.add_messages([])
    assert history.messages == MESSAGES


async def test_sessions_and_users_are_apart_and_clearing_is_narrow(
    memory: NextMem, history: NextMemChatMessageHistory
) -> None:
    other = NextMemChatMessageHistory("s2", memory.scope("alice"))
    bob = NextMemChatMessageHistory("s1", memory, user_id="bob")
    for each in (history, other, bob):
        await each.aadd_messages(MESSAGES[:2])
    memory.scope("alice").remember("A note of the session.", session="s1")
    assert await bob.aget_messages() == MESSAGES[:2]
    history.clear()
    history.clear()
    assert history.messages == []
    assert other.messages == bob.messages == MESSAGES[:2]
    assert memory.scope("alice").count() == 3


def test_what_was_said_can_be_recalled_from_everywhere(
    memory: NextMem, history: NextMemChatMessageHistory
) -> None:
    history.add_messages(MESSAGES[:2])
    found = NextMemRetriever(memory=memory, user_id="alice", k=1).invoke("Where did Ann move?")[0]
    assert (found.page_content, found.metadata["role"]) == (MESSAGES[1].content, "user")
