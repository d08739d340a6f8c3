"""One reader, every memory: what it is given depends on the memory alone, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import CannotAnswer, LatentCodec, NextMem
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.agents import Latent
from nextmem_agents.evaluation.agents.in_langchain import LangChainAgent
from nextmem_agents.evaluation.agents.in_llama_index import LlamaIndexAgent
from nextmem_agents.evaluation.benchmark import History, locomo_benchmark
from nextmem_agents.evaluation.direct import DirectReading, Recalls, check_way
from nextmem_agents.evaluation.locomo import Session
from nextmem_agents.evaluation.memories import Recalled
from nextmem_agents.evaluation.memories.memory import quotations
from nextmem_agents.evaluation.memories.named import TEXT_MEMORIES
from nextmem_agents.evaluation.readers.codec import CodecReader
from nextmem_agents.evaluation.study import Study
from nextmem_agents.recall.rendering import render
from tests.evaluation.tiny_study import Recording

FRAMEWORKS: list[Any] = [LangChainAgent, LlamaIndexAgent]
QUESTION = "Where does Rufus see the vet?"


class SameHits:
    """A plain text memory that holds the original texts, and gives those that a latent memory recalls."""

    def __init__(self, latent: Latent):
        self._latent = latent
        self._texts: dict[str, Any] = {}

    def read(self, session: Session) -> None:
        self._texts.update((turn.id, turn) for turn in quotations(session))

    def recall(self, question: str) -> Recalled:
        ids = self._latent.turns([hit.id for hit in self._latent.scope.recall(question, self._latent.k)])
        found = [self._texts[id_] for id_ in ids]
        return Recalled(render(found, self._latent.scope.token_counter(), self._latent.max_tokens), ids)


@pytest.fixture
def history(garden: Path) -> History:
    return locomo_benchmark(garden).histories[0]


@pytest.fixture
def memory(tiny_codec: LatentCodec) -> Iterator[NextMem]:
    with NextMem.open(":memory:", codec=tiny_codec) as memory:
        yield memory


def latent_of(memory: NextMem, mode: Any = "auto", max_tokens: int = 200) -> Latent:
    return Latent(memory.scope("garden"), mode, 3, max_tokens)


@pytest.mark.parametrize("kind", FRAMEWORKS)
@pytest.mark.parametrize("max_tokens", [30, 60, 200])
def test_decompressed_memory_gives_the_prompt_of_a_plain_text_memory(
    kind: Any, max_tokens: int, memory: NextMem, history: History
) -> None:
    latent = latent_of(memory, "decompress", max_tokens)
    ours, plain = Recording(instructions="Be brief."), Recording(instructions="Be brief.")
    count = latent.scope.token_counter()
    agents = [kind(latent, ours, count), kind(SameHits(latent), plain, count)]
    for session in history.sessions:
        for agent in agents:
            agent.read(session)
    for query in history.queries:
        one, other = (agent.ask(query.text) for agent in agents)
        assert one.prompt.encode() == other.prompt.encode()
        assert (one.recalled, one.text_tokens) == (other.recalled, other.text_tokens)
        assert one.text_tokens <= max_tokens + 12  # LlamaIndex's own tags around a block
    assert ours.prompts == plain.prompts
    assert ours.systems == plain.systems
    assert any("> " in prompt for prompt in ours.prompts) is (max_tokens > 30) or max_tokens == 30


def test_so_does_the_same_reader_without_a_framework(memory: NextMem, history: History) -> None:
    latent, recalls = latent_of(memory), Recalls()
    readers = {way: Recording() for way in ("text", "decompress", "none")}
    ways = {
        way: DirectReading(way, latent, history, reader, latent.scope.token_counter(), recalls)
        for way, reader in readers.items()
    }
    for session in history.sessions:
        for way in ways.values():
            way.read(session)
    assert memory.scope("garden").count() == 5  # read once
    asked = {name: [way.ask(query.text) for query in history.queries] for name, way in ways.items()}
    assert readers["text"].prompts == readers["decompress"].prompts
    assert [a.recalled for a in asked["text"]] == [a.recalled for a in asked["decompress"]]
    assert readers["none"].prompts[0] == f"Question: {history.queries[0].text}\nAnswer:"
    # The same prompt as the product's own door gives a model.
    prompts: list[str] = []
    latent.scope.answer(
        QUESTION, model=lambda prompt: prompts.append(prompt) or "", k=3, mode="decompress", max_tokens=200
    )
    assert prompts[0] in readers["decompress"].prompts


@pytest.mark.parametrize("kind", FRAMEWORKS)
@pytest.mark.parametrize("name", ["nextmem", *TEXT_MEMORIES])
def test_every_memory_reaches_the_reader_in_every_framework(
    kind: Any, name: str, memory: NextMem, garden: Path, tiny_codec: LatentCodec
) -> None:
    framework = "langchain" if kind is LangChainAgent else "llama-index"
    reader = Recording()
    study = Study(locomo_benchmark(garden), tiny_codec, reader, k=2, max_tokens=100, framework=framework)
    [history] = study.benchmark.histories
    agent = study.agents([name])[name](history, memory)
    for session in history.sessions:
        agent.read(session)
    asked = agent.ask(QUESTION)
    assert asked.reply == "Porto"
    assert asked.prompt == reader.prompts[0]
    assert asked.prompt.endswith(QUESTION)
    assert ("in Porto on Friday" in asked.prompt) is (name != "none")
    assert ("D2:1" in asked.recalled) is (name != "none")
    assert (asked.text_tokens > 0) is (name != "none")
    assert asked.latent_positions == 0
    assert 0 <= asked.reader_seconds <= asked.seconds
    # Questions are not remembered.
    assert agent.ask(QUESTION).prompt == asked.prompt


@pytest.mark.parametrize("kind", FRAMEWORKS)
@pytest.mark.parametrize("mode", ["inject", "mixed", "auto"])
def test_latents_reach_the_codecs_own_reader(
    kind: Any, mode: str, answering_codec: LatentCodec, history: History
) -> None:
    if mode == "mixed" and kind is LlamaIndexAgent:
        pytest.skip("LlamaIndex's block gives all as text or all as latents")
    with NextMem.open(":memory:", codec=answering_codec) as memory:
        latent = latent_of(memory, mode)
        reader = CodecReader(answering_codec, max_new_tokens=2)
        agent = kind(latent, reader, answering_codec.count_tokens)
        for session in history.sessions:
            agent.read(session)
        asked = agent.ask(QUESTION)
        assert asked.recalled
        assert asked.latent_positions + asked.text_tokens > 0
        if mode == "inject":
            assert asked.latent_positions == latent.latents(asked_ids(latent))
            assert asked.text_tokens == 0
        if mode == "mixed":
            assert asked.text_tokens > 0


def asked_ids(latent: Latent) -> list[str]:
    return [hit.id for hit in latent.scope.recall(QUESTION, latent.k)]


def test_every_way_reaches_the_codecs_own_reader(answering_codec: LatentCodec, history: History) -> None:
    with NextMem.open(":memory:", codec=answering_codec) as memory:
        latent, recalls = latent_of(memory), Recalls()
        reader = CodecReader(answering_codec, max_new_tokens=2)
        found = {}
        for way in ("none", "text", "decompress", "inject", "mixed"):
            agent = DirectReading(way, latent, history, reader, answering_codec.count_tokens, recalls)
            for session in history.sessions:
                agent.read(session)
            found[way] = agent.ask(QUESTION)
    assert found["text"].prompt == found["decompress"].prompt
    assert found["text"].reply == found["decompress"].reply
    assert found["text"].recalled == found["inject"].recalled == found["mixed"].recalled
    assert found["inject"].latent_positions > 0
    assert found["inject"].text_tokens == 0
    assert found["inject"].latent_positions < found["text"].text_tokens
    assert found["mixed"].text_tokens > 0


def test_a_session_is_read_once(memory: NextMem, history: History) -> None:
    latent = latent_of(memory)
    for _ in range(2):
        for session in history.sessions:
            latent.read(session)
    assert memory.scope("garden").count() == 5


def test_latents_for_a_reader_of_text_are_refused() -> None:
    with pytest.raises(CannotAnswer, match="recording cannot be given latents"):
        check_way("inject", Recording())
    with pytest.raises(InvalidArgument, match="there is no way 'telepathy'"):
        check_way("telepathy", Recording())
