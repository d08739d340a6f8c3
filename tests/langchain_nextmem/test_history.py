"""NextMemChatMessageHistory: a session's messages come back as they were said."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)

from langchain_nextmem import NextMemChatMessageHistory, NextMemRetriever
from nextmem_agents import InvalidArgument, NextMem

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


def test_the_text_of_content_blocks_is_the_memorys(
    memory: NextMem, history: NextMemChatMessageHistory
) -> None:
    image = {"type": "image", "url": "https://example.org/a.png"}
    said = [
        HumanMessage([{"type": "text", "text": "Where is this?"}, image]),
        AIMessage([{"type": "text", "text": "In Lisbon."}]),
        HumanMessage([image]),
    ]
    history.add_messages(said)
    assert history.messages == said
    assert [each.text for each in memory.scope("alice").list()] == [
        "Where is this?",
        "In Lisbon.",
        "(human message without text)",
    ]


def test_streamed_messages_have_the_roles_of_whole_ones(
    memory: NextMem, history: NextMemChatMessageHistory
) -> None:
    said = [HumanMessageChunk("Where is Ann?"), AIMessageChunk("In Lis") + AIMessageChunk("bon.")]
    history.add_messages(said)
    assert [(type(message), message.text) for message in history.messages] == [
        (HumanMessageChunk, "Where is Ann?"),
        (AIMessageChunk, "In Lisbon."),
    ]
    alice = memory.scope("alice")
    alice.remember(said)
    assert [each.role for each in alice.list()] == ["user", "assistant"] * 2
    assert {each.role for each in alice.recall("Where is Ann?", trusted_only=True)} == {"user", "assistant"}


def test_lone_surrogates_are_replaced(history: NextMemChatMessageHistory) -> None:
    history.add_messages(
        [HumanMessage("A \ud83d", name="\ud83d"), AIMessage([{"type": "text", "text": "\ud83d"}])]
    )
    assert [message.text for message in history.messages] == ["A \ufffd", "\ufffd"]


@pytest.mark.parametrize("arguments", [("s", "folder"), (None,), ("",), (5,)])
def test_malformed_arguments_are_found_when_it_is_built(memory: NextMem, arguments: Any) -> None:
    with pytest.raises(InvalidArgument):
        NextMemChatMessageHistory(*arguments, **({} if len(arguments) > 1 else {"memory": memory}))
