"""Many users of one adapter: who is served is told by the call's config or context, and nobody meets anybody."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import pytest
from langchain.agents import create_agent
from langchain_classic.chains import ConversationChain
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnablePassthrough
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_nextmem import (
    ChatNextMem,
    NextMemMemory,
    NextMemMiddleware,
    NextMemRetriever,
    memory_block,
    memory_tools,
)
from nextmem_agents import CannotAnswer, InvalidArgument, LatentCodec, NextMem, Scope
from nextmem_agents.recall.rendering import HEADING
from tests.langchain_nextmem.conftest import ScriptedModel, conversation, texts

WORDS = {"alice": "zebra", "bob": "yak"}
ASK = "What is my secret word?"
NAMED_BY_CONFIG = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="on Python 3.10 no config reaches async code, and such calls are refused",
)


def told(word: str) -> Any:
    return {"messages": [HumanMessage(f"My secret word is {word}.")]}


def asking() -> Any:
    return {"messages": [HumanMessage(ASK)]}


def call(user: str, thread: str = "t") -> RunnableConfig:
    return {"configurable": {"user_id": user, "thread_id": f"{user}-{thread}"}}


@pytest.mark.parametrize("how", ["invoke", pytest.param("ainvoke", marks=NAMED_BY_CONFIG), "stream"])
async def test_two_users_of_one_agent_interleaved_with_a_checkpointer(memory: NextMem, how: str) -> None:
    saver = InMemorySaver()
    model = ScriptedModel(lines=["Noted."])
    agent = create_agent(model, middleware=[NextMemMiddleware(memory)], checkpointer=saver)

    async def run(asked: Any, config: RunnableConfig) -> None:
        if how == "ainvoke":
            await agent.ainvoke(asked, config)
        elif how == "stream":
            list(agent.stream(asked, config, stream_mode="messages"))
        else:
            agent.invoke(asked, config)

    for user, word in WORDS.items():
        await run(told(word), call(user))
    for user, word in WORDS.items():
        await run(asking(), call(user, "u"))
        other = next(each for each in WORDS.values() if each != word)
        assert (f"> My secret word is {word}." in model.last, other in model.last) == (True, False)
    for user, word in WORDS.items():
        kept = memory.scope(user)
        assert texts(kept) == [f"My secret word is {word}.", "Noted.", ASK, "Noted."]
        assert {each.session for each in kept.list()} == {f"{user}-t", f"{user}-u"}
        # The state holds ids, and no recalled text.
        state = agent.get_state(call(user, "u")).values
        assert set(state["nextmem_ids"]) <= {each.id for each in kept.list()}
        assert state["nextmem_ids"]
        assert HEADING not in str(state)
    assert memory.scopes() == ["alice", "bob"]


@dataclass
class Context:
    user_id: str
    session_id: str


async def test_the_context_names_user_and_session_too(memory: NextMem) -> None:
    model = ScriptedModel(lines=["Noted."])
    agent = create_agent(model, middleware=[NextMemMiddleware(memory)], context_schema=Context)
    agent.invoke(told("zebra"), context=Context("alice", "monday"))
    await agent.ainvoke(asking(), context=Context("alice", "tuesday"))
    assert "zebra" in model.last
    assert [each.session for each in memory.scope("alice").list()] == ["monday"] * 2 + ["tuesday"] * 2
    with pytest.raises(InvalidArgument, match="context names user_id='alice', and its config 'bob'"):
        agent.invoke(asking(), {"configurable": {"user_id": "bob"}}, context=Context("alice", "x"))
    with pytest.raises(InvalidArgument, match="must be a string"):
        agent.invoke(asking(), {"configurable": {"user_id": 7}})


def test_an_adapter_of_one_user_serves_no_other(memory: NextMem, alice: Scope) -> None:
    alice.remember("My secret word is zebra.")
    for middleware in (NextMemMiddleware(alice), NextMemMiddleware(memory, user_id="alice")):
        agent = create_agent(ScriptedModel(lines=["So."]), middleware=[middleware])
        agent.invoke(asking(), {"configurable": {"user_id": "alice"}})
        with pytest.raises(InvalidArgument, match="the adapter serves 'alice' alone"):
            agent.invoke(asking(), {"configurable": {"user_id": "bob"}})


def test_neither_a_prompt_variable_nor_a_message_chooses_the_user(memory: NextMem) -> None:
    memory.scope("bob").remember("My secret word is yak.")
    model = ScriptedModel(lines=["So."])
    variables = NextMemMemory(memory=memory, input_key="input").load_memory_variables(
        {"input": ASK, "user_id": "bob", "session_id": "x", "configurable": {"user_id": "bob"}}
    )
    assert variables == {"history": ""}
    agent = create_agent(model, middleware=[NextMemMiddleware(memory)])
    agent.invoke(
        {"messages": [HumanMessage(ASK, name="bob", additional_kwargs={"user_id": "bob"})], "user_id": "bob"}
    )  # type: ignore[call-overload]
    assert "yak" not in model.last


def test_a_chain_inside_a_runnable_serves_the_user_of_the_call(memory: NextMem) -> None:
    model = ScriptedModel(lines=["Noted."])
    chain: ConversationChain = conversation(model, NextMemMemory(memory=memory))
    runnable = RunnablePassthrough() | chain
    for user, word in WORDS.items():
        runnable.invoke({"input": f"My secret word is {word}."}, call(user))
    for user, word in WORDS.items():
        runnable.invoke({"input": ASK}, call(user))
        assert f"My secret word is {word}." in model.last
    assert memory.scopes() == ["alice", "bob"]
    assert {each.session for each in memory.scope("bob").list()} == {"bob-t"}


async def test_a_retriever_serves_the_user_of_the_call(memory: NextMem) -> None:
    for user, word in WORDS.items():
        memory.scope(user).remember(f"My secret word is {word}.")
    retriever = NextMemRetriever(memory=memory)
    for user, word in WORDS.items():
        for found in (retriever.invoke(ASK, call(user)), await retriever.ainvoke(ASK, call(user))):
            assert [document.page_content for document in found] == [f"My secret word is {word}."]
    assert retriever.invoke(ASK) == []
    assert (
        (RunnableLambda(lambda text: text) | retriever)
        .invoke(ASK, call("bob"))[0]
        .page_content.endswith("yak.")
    )


@NAMED_BY_CONFIG
async def test_tools_remember_and_recall_for_the_user_of_the_call(memory: NextMem) -> None:
    memory.scope("bob").remember("My secret word is yak.")
    lines = [tool_call("remember", text="Alice's word is zebra."), "Kept."]
    agent = create_agent(
        ScriptedModel(lines=lines), middleware=[NextMemMiddleware(memory, tools=True, remember=False)]
    )
    agent.invoke(told("zebra"), call("alice"))
    model = ScriptedModel(lines=[tool_call("recall", query=ASK), "It is zebra."])
    agent = create_agent(model, middleware=[NextMemMiddleware(memory, tools=True, remember=False, k=1)])
    result = await agent.ainvoke(asking(), call("alice"))
    shown = result["messages"][-2].text
    assert "> Alice's word is zebra." in shown
    assert "yak" not in shown
    assert texts(memory.scope("alice")) == ["Alice's word is zebra."]
    _, recall = memory_tools(memory, user_id="carol")
    assert recall.invoke({"query": "Anything?"}) == "Nothing was found."
    assert set(recall.args) == {"query"}


@tool
def confirm(question: str) -> str:
    """Ask the user."""
    return str(interrupt(question))


def tool_call(name: str, **args: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "c1"}])


def test_the_tools_work_in_a_graph_of_any_state(memory: NextMem) -> None:
    class Messages(BaseModel):
        messages: Annotated[list[AnyMessage], add_messages]

    graph = StateGraph(Messages).add_node("tools", ToolNode(memory_tools(memory)))
    called = {"messages": [tool_call("remember", text="The word is zebra.")]}
    graph.set_entry_point("tools").compile().invoke(called, call("alice"))  # type: ignore[call-overload]
    assert texts(memory.scope("alice")) == ["The word is zebra."]


def test_a_resumed_run_goes_on_for_whom_it_began(memory: NextMem) -> None:
    lines = [
        tool_call("confirm", question="Sure?"),
        tool_call("remember", text="The word is zebra."),
        "Noted.",
    ]
    agent = create_agent(
        ScriptedModel(lines=lines),
        [confirm],
        middleware=[NextMemMiddleware(memory, tools=True)],
        checkpointer=InMemorySaver(),
    )
    began: RunnableConfig = {"configurable": {"user_id": "alice", "thread_id": "t", "session_id": "monday"}}
    agent.invoke(told("zebra"), began)
    with pytest.raises(InvalidArgument, match="began for user_id='alice', and is resumed for 'bob'"):
        agent.invoke(Command(resume="yes"), {"configurable": {"user_id": "bob", "thread_id": "t"}})
    agent.invoke(Command(resume="yes"), {"configurable": {"thread_id": "t"}})
    assert memory.scopes() == ["alice"]
    kept = list(memory.scope("alice").list())
    assert [each.text for each in kept] == ["The word is zebra.", "My secret word is zebra.", "Noted."]
    assert {each.session for each in kept} == {"monday"}


@pytest.mark.parametrize("thread", [UUID(int=7), 7])
def test_a_thread_id_may_be_any_and_is_its_string(memory: NextMem, thread: Any) -> None:
    agent = create_agent(ScriptedModel(lines=["Noted."]), middleware=[NextMemMiddleware(memory)])
    config: RunnableConfig = {"configurable": {"user_id": "alice", "thread_id": thread}}
    agent.invoke(told("zebra"), config)
    remember, _ = memory_tools(memory)
    remember.invoke({"text": "Alice has a dog."}, config)
    assert [each.session for each in memory.scope("alice").list()] == [str(thread)] * 3


def test_an_empty_session_is_refused_before_the_model_is_called(memory: NextMem) -> None:
    model = ScriptedModel(lines=["Noted."])
    agent = create_agent(model, middleware=[NextMemMiddleware(memory)])
    with pytest.raises(InvalidArgument, match="session_id must not be empty"):
        agent.invoke(told("zebra"), {"configurable": {"session_id": ""}})
    assert model.prompts == []


def test_a_scope_that_is_shared_stands_beside_the_users_own(memory: NextMem) -> None:
    team = memory.scope("team")
    team.remember("The secret word of the office is owl.")
    model = ScriptedModel(lines=["Noted."])
    shared = NextMemMiddleware(team, name="team", shared=True, remember=False)
    saver = InMemorySaver()
    agent = create_agent(model, middleware=[NextMemMiddleware(memory), shared], checkpointer=saver)
    for user, word in WORDS.items():
        agent.invoke(told(word), call(user))
    agent.invoke(asking(), call("alice", "u"))
    assert [word in model.last for word in ("zebra", "owl", "yak")] == [True, True, False]
    assert model.prompts[-1][-1].text.endswith(ASK)
    state = agent.get_state(call("alice", "u")).values
    assert set(state["nextmem_ids_team"]) == {each.id for each in team.list()}
    assert set(state["nextmem_ids"]) < {each.id for each in memory.scope("alice").list()}
    assert team.count() == 1
    with pytest.raises(InvalidArgument, match="shared=True is for one scope"):
        NextMemMiddleware(memory, shared=True)


def test_what_was_forgotten_after_it_was_recalled_is_left_out(alice: Scope) -> None:
    kept, gone = alice.remember(["I moved to Lisbon.", "I moved to Oslo."])
    middleware = NextMemMiddleware(alice)
    alice.forget([gone])
    request: Any = type("Request", (), {})()
    request.state, request.messages = {"nextmem_ids": [gone, kept]}, [HumanMessage("Where?")]
    request.model, request.runtime = ScriptedModel(lines=["x"]), None
    request.override = lambda **changed: changed
    shown = middleware._with_memories(request)["messages"][0].text  # type: ignore[index]
    assert "Lisbon" in shown
    assert "Oslo" not in shown


def test_latents_go_into_a_model_that_reads_them_and_text_into_all_others(
    memory: NextMem, alice: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = alice.remember("I moved to Lisbon in May.", role="user")
    seen: list[list[Any]] = []
    original = ChatNextMem.prompt

    def prompt(self: ChatNextMem, messages: list[Any], *rest: Any, **settings: Any) -> Any:
        seen.append([message.content for message in messages])
        return original(self, messages, *rest, **settings)

    monkeypatch.setattr(ChatNextMem, "prompt", prompt)
    model = ChatNextMem(codec=alice.codec, max_tokens=2)

    def ask(**settings: Any) -> Any:
        middleware = NextMemMiddleware(alice, remember=False, **settings)
        create_agent(model, middleware=[middleware]).invoke({"messages": [HumanMessage("Where did I move?")]})
        return seen[-1][-1]

    injected = [memory_block([note]), {"type": "text", "text": "Where did I move?"}]
    assert ask(mode="inject") == injected
    assert HEADING in ask(mode="decompress")
    monkeypatch.setattr(LatentCodec, "backbone_answers", property(lambda _: False))
    assert HEADING in ask()
    monkeypatch.setattr(LatentCodec, "backbone_answers", property(lambda _: True))
    assert ask() == injected
    bob = memory.scope("bob")
    bob.remember("I moved to Oslo in June.", role="user")
    two = [NextMemMiddleware(scope, name=scope.name, remember=False) for scope in (alice, bob)]
    create_agent(model, middleware=two).invoke({"messages": [HumanMessage("Where did I move?")]})
    assert [block["type"] for block in seen[-1][-1]] == ["text", "nextmem_memory", "text"]
    assert "> I moved to Oslo in June." in seen[-1][-1][0]["text"]
    other = create_agent(ScriptedModel(lines=["x"]), middleware=[NextMemMiddleware(alice, mode="inject")])
    with pytest.raises(CannotAnswer, match="not into ScriptedModel"):
        other.invoke({"messages": [HumanMessage("Where did I move?")]})
    with pytest.raises(InvalidArgument, match="mode must be"):
        NextMemMiddleware(alice, mode="magic")  # type: ignore[arg-type]


def test_a_chains_memory_injects_by_a_block_of_ids(alice: Scope) -> None:
    note = alice.remember("I moved to Lisbon in May.")
    memory = NextMemMemory(memory=alice, mode="inject", return_messages=True)
    (message,) = memory.load_memory_variables({"input": "Where did I move?"})["history"]
    assert message.content == [memory_block([note])]
    with pytest.raises(ValueError, match="needs return_messages=True"):
        NextMemMemory(memory=alice, mode="inject")


async def test_where_a_config_cannot_reach_async_code_nobodys_memories_are_taken_for_somebodys(
    memory: NextMem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_nextmem.scopes._CONFIG_REACHES_ASYNC", False)  # as on Python 3.10
    state: Any = asking()
    with pytest.raises(InvalidArgument, match="name the user in the context"):
        await NextMemMiddleware(memory).abefore_agent(state, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="name the user in the context"):
        await NextMemMemory(memory=memory).aload_memory_variables({"input": ASK})
    with pytest.raises(InvalidArgument, match="name the user in the context"):
        await ChatNextMem(memory=memory, max_tokens=1).ainvoke("Hello")
    runtime: Any = type("Runtime", (), {"context": {"user_id": "alice"}})()
    begun = await NextMemMiddleware(memory).abefore_agent(state, runtime)
    assert (begun["nextmem_ids"], begun["nextmem_turn"]["scope"]) == ([], "alice")
    assert await NextMemMemory(memory=memory, user_id="alice").aload_memory_variables({"input": ASK}) == {
        "history": ""
    }


async def _lag(stop: asyncio.Event, found: list[float]) -> None:
    while not stop.is_set():
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        found.append(time.perf_counter() - before - 0.005)


@NAMED_BY_CONFIG
async def test_32_users_at_once_without_cross_talk(memory: NextMem) -> None:
    users = [f"user-{n}" for n in range(32)]
    model = ScriptedModel(lines=["Noted."])
    agent = create_agent(model, middleware=[NextMemMiddleware(memory)], checkpointer=InMemorySaver())
    stop, lags = asyncio.Event(), list[float]()
    watch = asyncio.create_task(_lag(stop, lags))
    await asyncio.gather(*(agent.ainvoke(told(f"w{user}w"), call(user)) for user in users))
    await asyncio.gather(*(agent.ainvoke(asking(), call(user, "u")) for user in users))
    stop.set()
    await watch
    for user in users:
        scope = memory.scope(user)
        assert texts(scope) == [f"My secret word is w{user}w.", "Noted.", ASK, "Noted."]
    asked = [prompt for prompt in model.prompts if HEADING in str(prompt[-1].text)]
    assert len(asked) == len(users)
    for prompt in asked:
        assert sum(f"w{user}w" in str(prompt[-1].text) for user in users) == 1
    assert {user for user in users for prompt in asked if f"w{user}w" in str(prompt[-1].text)} == set(users)
    p99 = statistics.quantiles(lags, n=100)[-1]
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip(
            f"no cross-talk; lag p99 of {1000 * p99:.0f} ms says nothing while the machine is this busy"
        )
    assert p99 <= 0.05


def test_a_tool_says_what_was_not_remembered_and_the_run_goes_on(memory: NextMem) -> None:
    refusing = memory.scope("a", on_remember=lambda _: None)
    remember, recall = memory_tools(refusing)
    assert remember.invoke({"text": "The code is 4711."}).startswith("Not remembered: on_remember refused")
    assert remember.invoke({"text": ""}).startswith("Not remembered: ")
    assert recall.invoke({"query": ""}).startswith("Nothing was found: ")
    assert refusing.count() == 0
