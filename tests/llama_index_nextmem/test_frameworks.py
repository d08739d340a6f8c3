"""LlamaIndex's engines and agents with a scripted model: what reached it is compared with golden files."""

from __future__ import annotations

import pytest
from llama_index.core.agent.react import ReActChatFormatter
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer

from langchain_nextmem import NextMemMemory as LangChainMemory
from llama_index_nextmem import NextMemMemory, NextMemQueryEngine, NextMemRetriever
from nextmem_agents import NextMem, Scope
from tests.llama_index_nextmem.conftest import NOW, WARNINGS_OF_AGENTS, ScriptedLLM, check_golden, said

QA = PromptTemplate("Context:\n{context_str}\nQuestion: {query_str}\nAnswer: ")
pytestmark = [pytest.mark.usefixtures("_clock"), *WARNINGS_OF_AGENTS]


@pytest.fixture(autouse=True)
def _past(alice: Scope) -> None:
    alice.remember(
        ["I moved to Lisbon in May.", "How nice!", "My dog is called Rufus."],
        id=["moved", "nice", "dog"],
        role=["user", "assistant", "user"],
        session="s0",
        occurred_at=NOW,
    )


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


async def test_retriever_query_engine(alice: Scope) -> None:
    llm = ScriptedLLM(lines=["In Lisbon."])
    plain = RetrieverQueryEngine(
        retriever=NextMemRetriever(alice, k=1),
        response_synthesizer=get_response_synthesizer(llm=llm, text_qa_template=QA),
    )
    response = plain.query("Where did I move?")
    assert [source.node_id for source in response.source_nodes] == ["moved"]
    await NextMemQueryEngine(alice, llm=llm, k=2, text_qa_template=QA).aquery("What is my dog called?")
    check_golden("retriever_query_engine", llm)


async def test_simple_chat_engine(alice: Scope) -> None:
    llm = ScriptedLLM(lines=["In Lisbon.", "Rufus."])
    chat = NextMemMemory.from_defaults(alice, session_id="s1", k=1)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=chat, system_prompt="Be brief.")
    assert str(await engine.achat("Where did I move?")) == "In Lisbon."
    assert str(engine.chat("What is my dog called?")) == "Rufus."
    check_golden("simple_chat_engine", llm)
    assert said(alice)[3:] == [
        ("user", "Where did I move?", "s1"),
        ("assistant", "In Lisbon.", "s1"),
        ("user", "What is my dog called?", "s1"),
        ("assistant", "Rufus.", "s1"),
    ]


async def test_function_agent(alice: Scope) -> None:
    llm = ScriptedLLM(
        lines=[{"name": "weather", "arguments": {"city": "Lisbon"}}, "It is sunny where you live."]
    )
    agent = FunctionAgent(tools=[weather], llm=llm, system_prompt="Be brief.", streaming=False)
    chat = NextMemMemory.from_defaults(alice, session_id="s1", k=1)
    response = await agent.run("What is the weather where I moved to?", memory=chat)
    assert str(response) == "It is sunny where you live."
    check_golden("function_agent", llm)
    assert said(alice)[3:] == [
        ("user", "What is the weather where I moved to?", "s1"),
        ("assistant", "It is sunny where you live.", "s1"),
    ]


async def test_react_agent(alice: Scope) -> None:
    llm = ScriptedLLM(
        lines=[
            'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Lisbon"}',
            "Thought: I can answer.\nAnswer: It is sunny where you live.",
        ]
    )
    formatter = ReActChatFormatter.from_defaults(system_header="Tools: {tool_names}\n")
    agent = ReActAgent(tools=[weather], llm=llm, formatter=formatter)
    chat = NextMemMemory.from_defaults(alice, session_id="s1", k=1)
    response = await agent.run("What is the weather where I moved to?", memory=chat)
    assert str(response) == "It is sunny where you live."
    check_golden("react_agent", llm)
    assert said(alice)[3:] == [
        ("user", "What is the weather where I moved to?", "s1"),
        ("assistant", "It is sunny where you live.", "s1"),
    ]


async def test_memories_can_be_carried_as_ids_for_a_model_that_reads_latents(alice: Scope) -> None:
    llm = ScriptedLLM(lines=["In Lisbon."])
    chat = NextMemMemory.from_defaults(alice, session_id="s1", k=1, mode="inject")
    await SimpleChatEngine.from_defaults(llm=llm, memory=chat).achat("Where did I move?")
    check_golden("inject", llm)


async def test_langchain_writes_and_llama_index_reads(memory: NextMem) -> None:
    writer = LangChainMemory(memory=memory, user_id="ann", session_id="s1")
    writer.save_context({"input": "I moved to Oslo in June."}, {"output": "How nice!"})
    ann = memory.scope("ann")
    (hit,) = NextMemRetriever(ann, k=1).retrieve("Where did I move?")
    assert (hit.text, hit.metadata["role"], hit.metadata["session"]) == (
        "I moved to Oslo in June.",
        "user",
        "s1",
    )
    chat = NextMemMemory.from_defaults(ann, session_id="s2", k=1)
    llm = ScriptedLLM(lines=["In Oslo."])
    await SimpleChatEngine.from_defaults(llm=llm, memory=chat).achat("Where did I move?")
    assert "> I moved to Oslo in June." in (llm.prompts[0][-1].content or "")
    written = [memory.text for memory in ann.list()]
    assert written == ["I moved to Oslo in June.", "How nice!", "Where did I move?", "In Oslo."]
    recalled = writer.load_memory_variables({"input": "Where did I move?"})["history"]
    assert all(f"> {text}" in recalled for text in written)
