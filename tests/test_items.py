"""LangChain's and LlamaIndex's own messages and documents are understood without importing either in the core."""

from __future__ import annotations

import pytest

from nextmem_agents import NextMem


def test_langchain_messages_and_documents(memory: NextMem) -> None:
    messages = pytest.importorskip("langchain_core.messages", reason="LangChain is an extra")
    documents = pytest.importorskip("langchain_core.documents", reason="LangChain is an extra")
    scope = memory.scope()
    ids = scope.remember(
        [
            messages.HumanMessage("Hi."),
            messages.AIMessage("Hello."),
            documents.Document("Page.", metadata={"n": 1}),
        ]
    )
    human, ai, page = scope.get(ids)
    assert (human.text, human.role, ai.role) == ("Hi.", "user", "assistant")
    assert (page.text, page.role, page.metadata) == ("Page.", None, {"n": 1})


def test_llama_index_messages_and_nodes(memory: NextMem) -> None:
    llms = pytest.importorskip("llama_index.core.llms", reason="LlamaIndex is an extra")
    schema = pytest.importorskip("llama_index.core.schema", reason="LlamaIndex is an extra")
    scope = memory.scope()
    ids = scope.remember(
        [llms.ChatMessage("Hi.", role="user"), schema.TextNode(text="Node.", metadata={"n": 1})]
    )
    message, node = scope.get(ids)
    assert (message.text, message.role) == ("Hi.", "user")
    assert (node.text, node.metadata) == ("Node.", {"n": 1})


def test_a_single_message_gives_a_single_id(memory: NextMem) -> None:
    assert isinstance(memory.scope().remember({"role": "user", "content": "Hi."}), str)  # type: ignore[call-overload]
