"""NextMemRetriever by itself and in a RetrieverQueryEngine."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timezone
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import MetadataMode, QueryBundle, TextNode

from llama_index_nextmem import NextMemRetriever
from nextmem_agents import EmptyText, InvalidArgument, LatentCodec, NextMem, Scope
from tests.llama_index_nextmem.conftest import ScriptedLLM, what_reached

WHEN = datetime(2025, 5, 3, 10, 30, tzinfo=timezone.utc)


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
            "memory_id": note,
            "scope": "alice",
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
    note = alice.remember("I moved.")
    node = NextMemRetriever(alice).retrieve("Who moved?")[0].node
    assert node.metadata == {"memory_id": note, "scope": "alice", "exact": True}
    assert node.get_content(MetadataMode.LLM) == "I moved."


async def test_a_query_engine_answers_from_memory(alice: Scope) -> None:
    note = alice.remember("I moved to Lisbon in May.", role="user")
    alice.remember("The cat is called Mia.", role="user")
    llm = ScriptedLLM(lines=["In Lisbon."])
    query_engine = engine(NextMemRetriever(alice, k=1), llm)
    question = "Where did I move?"
    for response in (query_engine.query(question), await query_engine.aquery(question)):
        assert str(response) == "In Lisbon."
        assert [source.node_id for source in response.source_nodes] == [note]
    assert len(llm.prompts) == 2
    assert "I moved to Lisbon in May." in what_reached(llm)
    assert "Mia" not in what_reached(llm)


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


def test_an_embedding_is_itself_what_is_searched_for(alice: Scope) -> None:
    cat, dog = alice.remember(["The cat is called Mia.", "My dog Rufus sees the vet."])
    retriever = NextMemRetriever(alice, k=2)
    for note, text in ((cat, "The cat is called Mia."), (dog, "My dog Rufus sees the vet.")):
        vector = alice.codec.index_vectors(alice.codec.encode([text]))[0].tolist()
        found = retriever.retrieve(QueryBundle("Who sees the vet?", embedding=vector))
        assert [hit.node_id for hit in found] == [note, cat if note == dog else dog]
        assert found[0].score == pytest.approx(1, abs=0.05)  # stored vectors are those of 4-bit latents
    found = NextMemRetriever(alice, k=1, where={"id": dog}).retrieve(QueryBundle("", embedding=vector))
    assert [hit.text for hit in found] == ["My dog Rufus sees the vet."]
    with pytest.raises(InvalidArgument, match="query vector"):
        retriever.retrieve(QueryBundle("?", embedding=[1.0, 2.0]))


def test_custom_embedding_strings_are_searched_in_place_of_the_text(alice: Scope) -> None:
    alice.remember(["The cat is called Mia.", "My dog Rufus sees the vet."])
    bundle = QueryBundle("Tell me.", custom_embedding_strs=["The name of the cat.", "It is Mia."])
    assert NextMemRetriever(alice, k=1).retrieve(bundle)[0].text == "The cat is called Mia."


def test_callbacks_events_and_tags_arrive_as_from_any_retriever(alice: Scope) -> None:
    note = alice.remember("I moved to Lisbon.")
    debug = LlamaDebugHandler(print_trace_on_end=False)
    events: list[Any] = []

    class Recorder(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            events.append(event)

    root, recorder = get_dispatcher(), Recorder()
    root.add_event_handler(recorder)
    try:
        with instrument_tags({"tenant": "t1"}):
            NextMemRetriever(alice, callback_manager=CallbackManager([debug])).retrieve("Where?")
    finally:
        root.event_handlers.remove(recorder)
    ((started, ended),) = debug.get_event_pairs(CBEventType.RETRIEVE)
    assert started.payload is not None
    assert ended.payload is not None
    assert started.payload[EventPayload.QUERY_STR] == "Where?"
    assert [hit.node_id for hit in ended.payload[EventPayload.NODES]] == [note]
    (end,) = [event for event in events if isinstance(event, RetrievalEndEvent)]
    assert end.tags == {"tenant": "t1"}
    assert [hit.node_id for hit in end.nodes] == [note]


async def test_32_users_at_once_never_meet(memory: NextMem) -> None:
    users = [f"user {n}" for n in range(32)]
    for user in users:
        memory.scope(user).remember(f"My secret word is number {user[5:]}.")

    async def ask(user: str) -> list[str]:
        retriever = NextMemRetriever(memory.scope(user))
        return [hit.text for hit in await retriever.aretrieve("What is my secret word?")]

    found = await asyncio.gather(*map(ask, users))
    assert found == [[f"My secret word is number {user[5:]}."] for user in users]


@pytest.mark.parametrize(
    "given", [{"memory": "ann"}, {"filters": []}, {"filters": ["x"]}, {"ranking": "best"}]
)
def test_what_is_given_wrongly_is_refused_at_once(alice: Scope, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(given))):
        NextMemRetriever(**{"memory": alice, **given})
