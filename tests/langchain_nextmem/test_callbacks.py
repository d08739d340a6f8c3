"""LangChain's callbacks fire for memory as its users expect of any retriever, model and tool."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from langchain_nextmem import NextMemRetriever
from nextmem_agents import InvalidArgument, Scope


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
        self.events.append(("start", (query, kwargs["tags"], kwargs["metadata"]["tenant"])))

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.events.append(("end", [document.page_content for document in documents]))

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.events.append(("error", type(error).__name__))


def test_a_retriever_reports_its_start_end_and_error(alice: Scope) -> None:
    alice.remember("The train to Lisbon leaves at nine.")
    recorder = Recorder()
    config: Any = {"callbacks": [recorder], "tags": ["night"], "metadata": {"tenant": "t1"}}
    retriever = NextMemRetriever(memory=alice, k=1)
    retriever.invoke("When does the train leave?", config=config)
    assert recorder.events == [
        ("start", ("When does the train leave?", ["night"], "t1")),
        ("end", ["The train to Lisbon leaves at nine."]),
    ]
    recorder.events.clear()
    with pytest.raises(InvalidArgument):
        NextMemRetriever(memory=alice, k=1, where={"year": {"$nonsense": 1}}).invoke("When?", config=config)
    assert recorder.events[-1] == ("error", "InvalidArgument")


async def test_they_fire_for_the_asynchronous_twin_too(alice: Scope) -> None:
    alice.remember("The train to Lisbon leaves at nine.")
    recorder = Recorder()
    config: Any = {"callbacks": [recorder], "metadata": {"tenant": "t1"}}
    await NextMemRetriever(memory=alice, k=1).ainvoke("When?", config=config)
    assert [name for name, _ in recorder.events] == ["start", "end"]
