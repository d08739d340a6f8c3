"""QuotingChatModel reads what recall.rendering writes."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_nextmem import QuotingChatModel
from nextmem_agents import Scope


@pytest.fixture
def block(alice: Scope) -> str:
    alice.remember(
        [
            "I moved to Lisbon in May. It rains.\n\nMy cat came along.",
            "Where did I move?",
            "My dog is called Rufus.",
        ],
        role=["user", "user", "a: b"],
    )
    return alice.recall("Where did I move, and what is my dog called?", k=3).as_prompt()


def test_it_quotes_the_sentence_that_fits_the_question_behind_the_block(block: str) -> None:
    model = QuotingChatModel()
    assert model.invoke(f"{block}\n\nWhere did I move?").text == "I moved to Lisbon in May."
    assert model.invoke(f"{block}\n\nWho came along, the cat?").text == "My cat came along."
    assert (
        model.invoke(f"Talk.\n{block}\nHuman: What is my dog called?\nAI:").text == "My dog is called Rufus."
    )


async def test_block_and_question_may_be_two_messages_among_others(block: str) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("Hello."), AIMessage("Hello."), HumanMessage(block)]
    reply = await QuotingChatModel().ainvoke([*messages, HumanMessage("What is my dog called?")])
    assert reply.text == "My dog is called Rufus."


def test_what_is_no_question_gets_no_quotation(block: str) -> None:
    assert QuotingChatModel().invoke(f"{block}\n\nI moved to Oslo.").text == "Noted."
    assert QuotingChatModel(noted="Oh.").invoke("Human: I moved to Oslo.\nAI:").text == "Oh."


def test_neither_questions_nor_its_own_set_replies_are_quoted(alice: Scope) -> None:
    alice.remember(["Noted.", "I have no memory of that.", "Is it noted?"])
    block = alice.recall("Is it noted?").as_prompt()
    assert QuotingChatModel().invoke(f"{block}\n\nIs it noted?").text == "I have no memory of that."


def test_without_memories_it_says_so() -> None:
    assert QuotingChatModel().invoke("Where did I move?").text == "I have no memory of that."
    assert QuotingChatModel(nothing_recalled="?").invoke("[1] user:\n> I moved.\n\nWho?").text == "?"
