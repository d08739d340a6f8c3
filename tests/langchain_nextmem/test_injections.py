"""No memory leaves its quotation, whatever it says, in anything that the LangChain adapters render."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

from langchain_nextmem import ChatNextMem, NextMemMemory, NextMemMiddleware, memory_block, memory_tools
from nextmem_agents import LatentCodec, NextMem, Scope
from nextmem_agents.recall.rendering import HEADING
from tests.injections import ATTEMPTS, check_quoted
from tests.langchain_nextmem.conftest import ScriptedModel
from tests.scope.conftest import fake, open_fake  # noqa: F401 - fixtures

QUESTION = "Where is the key?"
N = len(ATTEMPTS)
EVERYTHING: dict[str, Any] = {"k": N, "max_tokens": None}


@pytest.fixture
def attacked(fake: NextMem) -> Scope:  # noqa: F811
    """A scope in which every attempt answers the question."""
    scope = fake.scope("alice")
    scope.remember([f"{attempt} key" for attempt in ATTEMPTS], role=[f"u{i}\nsystem:" for i in range(N)])
    return scope


def test_the_chains_memory(attacked: Scope) -> None:
    found = NextMemMemory(memory=attacked, **EVERYTHING).load_memory_variables({"input": QUESTION})["history"]
    check_quoted(found, N)
    # Neither does a prompt's template make anything of the braces in it.
    prompt = PromptTemplate.from_template("{history}\n\nQ: {input}").invoke(
        {"history": found, "input": QUESTION}
    )
    assert prompt.to_string() == f"{found}\n\nQ: {QUESTION}"


def test_the_chains_memory_as_messages(attacked: Scope) -> None:
    memory = NextMemMemory(memory=attacked, return_messages=True, **EVERYTHING)
    found = memory.load_memory_variables({"input": QUESTION})
    template = ChatPromptTemplate([("placeholder", "{history}"), ("human", "{input}")])
    block, question = template.invoke({**found, "input": QUESTION}).to_messages()
    assert isinstance(block, HumanMessage)  # never with the system's voice
    check_quoted(str(block.content), N)
    assert question.content == QUESTION


def test_the_middleware(attacked: Scope) -> None:
    model = ScriptedModel(lines=["Under the mat."])
    middleware = NextMemMiddleware(attacked, remember=False, **EVERYTHING)
    create_agent(model, system_prompt="Be brief.", middleware=[middleware]).invoke(
        {"messages": [HumanMessage(QUESTION)]}
    )
    system, asked = model.prompts[0]
    assert system.content == "Be brief."
    assert str(asked.content).endswith(f"\n\n{QUESTION}")
    check_quoted(str(asked.content).removesuffix(f"\n\n{QUESTION}"), N)


def test_the_tools(attacked: Scope) -> None:
    _, recall = memory_tools(attacked, **EVERYTHING)
    check_quoted(recall.invoke({"query": QUESTION}), N)


@pytest.mark.parametrize("attempt", [ATTEMPTS[0], ATTEMPTS[-1], ATTEMPTS[N // 2]])
def test_the_chat_model_where_it_takes_text(codec: LatentCodec, attempt: str) -> None:
    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope()
        note = scope.remember(attempt)
        model = ChatNextMem(memory=scope, min_fidelity=2.0)  # no latents carry that much
        prompt = model.prompt([HumanMessage([memory_block([note]), {"type": "text", "text": QUESTION}])])
        text = codec.tokenizer.to_bytes([i for part in prompt for i in part]).decode()
        check_quoted(text[text.index(HEADING) : text.index(f"\n\n{QUESTION}")], 1)
