"""NextMemRetriever by itself and in a RetrieverQueryEngine."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timezone
from typing import Any

import pytest
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, TextNode
from pydantic import Field

from llama_index_nextmem import NextMemRetriever
from nextmem_agents import EmptyText, LatentCodec, NextMem, Scope

WHEN = datetime(2025, 5, 3, 10, 30, tzinfo=timezone.utc)


class ScriptedLLM(CustomLLM):
    """Always answers the same and keeps what it was asked."""

    prompts: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=4096, num_output=64, model_name="scripted")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text="In Lisbon.")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        yield self.complete(prompt)


@pytest.fixture
def alice(memory: NextMem) -> Scope:
    return memory.scope("alice")


def engine(retriever: NextMemRetriever, llm: ScriptedLLM) -> RetrieverQueryEngine:
    return RetrieverQueryEngine(retriever=retriever, response_synthesizer=get_response_synthesizer(llm=llm))


async def test_a_node_says_all_that_is_known_of_a_memory(alice: Scope) -> None:
    note = alice.remember(
        "I moved to Lisbon.", role="user", session="s1", occurred_at=WHEN, metadata={"source": "chat"}
    )
    retriever = NextMemRetriever(alice, k=1)
    for found in (retriever.retrieve("Where did I move?"), await retriever.aretrieve("Where did I move?")):
        (hit,) = found
        assert isinstance(hit.node, TextNode)
        assert (hit.node_id, hit.text) == (note, "I moved to Lisbon.")
        assert hit.score is not None
        assert 0 < hit.score <= 1
        assert hit.metadata == {
            "source": "chat",
            "role": "user",
            "session": "s1",
            "occurred_at": "2025-05-03T10:30:00+00:00",
            "exact": True,
        }
        assert hit.node.model_dump_json()


def test_the_model_reads_who_and_when_and_embeddings_only_the_text(alice: Scope) -> None:
    alice.remember("I moved.", role="user", session="s1", occurred_at=WHEN, metadata={"source": "chat"})
    node = NextMemRetriever(alice).retrieve("Who moved?")[0].node
    known = "role: user\noccurred_at: 2025-05-03T10:30:00+00:00"
    assert node.get_content(MetadataMode.LLM) == f"{known}\n\nI moved."
    assert node.get_content(MetadataMode.EMBED) == "I moved."


def test_what_is_unknown_is_left_out(alice: Scope) -> None:
    alice.remember("I moved.")
    node = NextMemRetriever(alice).retrieve("Who moved?")[0].node
    assert node.metadata == {"exact": True}
    assert node.get_content(MetadataMode.LLM) == "I moved."


async def test_a_query_engine_answers_from_memory(alice: Scope) -> None:
    note = alice.remember("I moved to Lisbon in May.", role="user")
    alice.remember("The cat is called Mia.", role="user")
    llm = ScriptedLLM()
    query_engine = engine(NextMemRetriever(alice, k=1), llm)
    question = "Where did I move?"
    for response in (query_engine.query(question), await query_engine.aquery(question)):
        assert str(response) == "In Lisbon."
        assert [source.node_id for source in response.source_nodes] == [note]
    assert all("I moved to Lisbon in May." in prompt and "Mia" not in prompt for prompt in llm.prompts)
    assert len(llm.prompts) == 2


def test_k_and_where_narrow_what_is_found_best_first(alice: Scope) -> None:
    alice.remember(
        [f"The train number {n} goes to Lisbon." for n in range(6)], role=["user", "assistant"] * 3
    )
    found = NextMemRetriever(alice, k=2, where={"role": "user"}).retrieve("Where does train number 2 go?")
    assert [hit.metadata["role"] for hit in found] == ["user", "user"]
    assert found[0].text == "The train number 2 goes to Lisbon."
    assert len(NextMemRetriever(alice).retrieve("Which train?")) == 5


def test_two_users_never_meet(memory: NextMem) -> None:
    for user, word in (("alice", "zebra"), ("bob", "yak")):
        memory.scope(user).remember(f"My secret word is {word}.")
    for user, word in (("alice", "zebra"), ("bob", "yak")):
        found = NextMemRetriever(memory.scope(user)).retrieve("What is my secret word?")
        assert [hit.text for hit in found] == [f"My secret word is {word}."]


def test_a_store_stands_for_its_default_scope(memory: NextMem) -> None:
    memory.scope().remember("I moved.")
    assert NextMemRetriever(memory).scope.name == "default"
    assert len(NextMemRetriever(memory).retrieve("Who moved?")) == 1


def test_without_arguments_it_opens_the_default_store(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("NEXTMEM_HOME", str(tmp_path))
    monkeypatch.setattr("nextmem_agents.memory._load_codec", lambda _: codec)
    with NextMem.open() as store:
        store.scope().remember("I moved.")
        assert NextMemRetriever().retrieve("Who moved?")[0].text == "I moved."


async def test_the_event_loop_goes_on_while_memories_are_decoded(
    alice: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.remember("I moved.")
    threads = []
    decode = alice._decompress

    def watched(payloads: Any) -> Any:
        threads.append(threading.current_thread())
        return decode(payloads)

    monkeypatch.setattr(alice, "_decompress", watched)
    await NextMemRetriever(alice).aretrieve("Who moved?")
    assert threads
    assert threading.main_thread() not in threads


def test_an_empty_question_is_an_error(alice: Scope) -> None:
    with pytest.raises(EmptyText):
        NextMemRetriever(alice).retrieve("")


def test_a_missing_extra_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['llama_index.core'] = None\n"
        "from nextmem_agents import MissingExtra\n"
        "try:\n    import llama_index_nextmem\nexcept MissingExtra as error:\n    print(error)\n"
        "print('langchain_core' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "nextmem-agents[llama-index]"' in told
    assert told.splitlines()[-1] == "False"
