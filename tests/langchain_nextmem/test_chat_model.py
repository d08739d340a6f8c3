"""ChatNextMem: LangChain's own conformance suites, injection that is proven, and Qwen3's tool calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel, ValidationError

from langchain_nextmem import ChatNextMem, memory_block
from nextmem_agents import (
    CannotAnswer,
    CodecMismatch,
    InvalidArgument,
    LatentCodec,
    Latents,
    MemoryNotFound,
    NextMem,
)
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.generation import Piece, Usage, next_token_logits
from nextmem_agents.scope import Scope
from tests.codec import tiny

FACT = "She moved to Lisbon in May."
ASK = "Where does she live?"


class _Suite:
    @pytest.fixture(autouse=True)
    def _codec(self, codec: LatentCodec) -> None:
        self.codec = codec

    @property
    def chat_model_class(self) -> type[ChatNextMem]:
        return ChatNextMem

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"codec": self.codec}

    @property
    def has_tool_calling(self) -> bool:
        return False  # mini calls none

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return False  # the weights are loaded


class TestUnit(_Suite, ChatModelUnitTests): ...  # type: ignore[misc]


class TestIntegration(_Suite, ChatModelIntegrationTests): ...  # type: ignore[misc]


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    """A tiny random codec with Qwen's turns in its vocabulary."""
    folder = tmp_path_factory.mktemp("chatty")
    tiny.write_whole(folder)
    return LatentCodec.load(folder)


class TestUnitWithTools(_Suite, ChatModelUnitTests):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _codec(self, chatty: LatentCodec) -> None:
        self.codec = chatty

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True


def asking(ids: list[str], text: str = ASK) -> HumanMessage:
    return HumanMessage([memory_block(ids), {"type": "text", "text": text}])


def test_the_block_gives_the_logits_of_input_embeddings_built_by_hand(alice: Scope) -> None:
    note = alice.remember(FACT)
    codec = alice.codec
    model = ChatNextMem(memory=alice)
    logits = next_token_logits(codec, model.prompt([asking([note])]))

    (payload,) = (memory := alice.get(note)).batch.payloads(memory.index)
    assert payload.latents is not None
    latents = codec.dequantize([payload.latents]).values[0]
    table = codec.reader.model.get_input_embeddings()
    ids = torch.tensor([*codec.tokenizer.encode([ASK])[0], codec.config.start_of_decode])
    embeddings = torch.cat([latents * codec.config.latent_scale, table(ids)])[None]
    stride = codec.config.tokens_per_latent or 1
    n = len(latents)
    positions = torch.tensor([[*range(0, n * stride, stride), *range(n * stride, n * stride + len(ids))]])
    with torch.inference_mode():
        by_hand = codec.reader.model(inputs_embeds=embeddings, position_ids=positions).logits[0, -1]
    torch.testing.assert_close(logits, by_hand, atol=2e-5, rtol=1.3e-6)
    text_only = next_token_logits(codec, model.prompt([HumanMessage(ASK)]))
    assert not torch.allclose(logits, text_only, atol=1e-2)


def test_what_the_prompt_says_is_what_is_generated_from(
    alice: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = alice.remember(FACT)
    given: list[Any] = []

    def stream(codec: LatentCodec, prompt: Any, sampling: Any) -> Iterator[Piece]:
        given.append((codec, prompt, sampling))
        yield Piece("Yes.", "stop", Usage(3, 2, 1))

    monkeypatch.setattr("langchain_nextmem.chat_model.stream", stream)
    model = ChatNextMem(memory=alice, temperature=0.5, stop=["x"], max_tokens=7)
    assert model.invoke([asking([note])], stop=["y"], seed=3).text == "Yes."
    (codec, prompt, sampling), expected = given[0], model.prompt([asking([note])])
    assert codec is alice.codec
    assert prompt[1:] == expected[1:]
    assert torch.equal(prompt[0].values, expected[0].values)  # type: ignore[union-attr]
    assert (sampling.temperature, sampling.stop, sampling.max_new_tokens, sampling.seed) == (
        0.5,
        ("y",),
        7,
        3,
    )


def test_two_users_with_the_same_ids_never_meet(memory: NextMem) -> None:
    model = ChatNextMem(memory=memory)
    users = {name: model.in_scope(memory.scope(name)) for name in ("alice", "bob")}
    memory.scope("alice").remember(FACT, id="note")
    memory.scope("bob").remember("The spare key is under the blue pot.", id="note")
    memory.scope("bob").remember("Bob likes jazz.", id="jazz")

    def logits(name: str, ids: list[str]) -> torch.Tensor:
        return next_token_logits(memory.codec, users[name].prompt([asking(ids)]))

    before = logits("alice", ["note"])
    assert not torch.allclose(before, logits("bob", ["note"]), atol=1e-2)
    swapped = logits("bob", ["jazz"])
    assert torch.equal(before, logits("alice", ["note"]))
    memory.scope("bob").clear()
    assert torch.equal(before, logits("alice", ["note"]))
    assert not torch.allclose(before, swapped, atol=1e-2)
    with pytest.raises(MemoryNotFound):
        users["alice"].prompt([asking(["jazz"])])


def test_the_user_of_a_call_is_named_by_its_config_in_a_graph(memory: NextMem) -> None:
    from langchain_core.runnables import RunnableLambda

    memory.scope("alice").remember(FACT, id="note")
    model = ChatNextMem(memory=memory, max_tokens=2)
    chain = RunnableLambda(lambda text: [asking(["note"], text)]) | model
    reply = chain.invoke(ASK, {"configurable": {"user_id": "alice"}})
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["input_token_details"] == {"latent_positions": 1}
    for config in ({"user_id": "bob"}, {}):
        with pytest.raises(MemoryNotFound):
            chain.invoke(ASK, {"configurable": config})
    fixed = RunnableLambda(lambda text: [asking(["note"], text)]) | model.in_scope(memory.scope("alice"))
    with pytest.raises(InvalidArgument, match="user_id='bob', and the adapter serves 'alice' alone"):
        fixed.invoke(ASK, {"configurable": {"user_id": "bob"}})


def test_another_codecs_memory_is_refused_before_any_forward_pass(
    alice: Scope, chatty: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = alice.remember(FACT)

    def hidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Backbone, "hidden", hidden)
    with pytest.raises(CodecMismatch, match="which the backbone of 'tiny'"):
        ChatNextMem(codec=chatty, memory=alice).invoke([asking([note])])


def test_blocks_need_a_memory_and_ids(alice: Scope) -> None:
    with pytest.raises(CannotAnswer, match=r"ChatNextMem\(memory=scope\)"):
        ChatNextMem(codec=alice.codec).invoke([asking(["note"])])
    with pytest.raises(InvalidArgument, match="list of ids"):
        ChatNextMem(memory=alice).invoke([HumanMessage([{"type": "nextmem_memory", "ids": "note"}])])
    with pytest.raises(InvalidArgument, match="no 'image_url' block"):
        ChatNextMem(memory=alice).invoke([HumanMessage([{"type": "image_url", "image_url": "data:"}])])


def test_a_block_in_langchains_standard_form_anywhere_in_a_message(alice: Scope) -> None:
    note = alice.remember(FACT)
    blocks: list[Any] = [
        {"type": "text", "text": "You know this: "},
        {"type": "non_standard", "value": memory_block([note])},
        {"type": "text", "text": ASK},
    ]
    before, latents, after, sod = ChatNextMem(memory=alice).prompt([HumanMessage(blocks)])
    encode = alice.codec.tokenizer.encode
    assert [before, after] == encode(["You know this: ", ASK])
    assert isinstance(latents, Latents)
    assert latents.lengths.tolist() == [1]
    assert sod == [alice.codec.config.start_of_decode]


def test_what_latents_do_not_carry_goes_in_as_quoted_text(alice: Scope) -> None:
    note = alice.remember(FACT, role="user")
    model = ChatNextMem(memory=alice, min_fidelity=1.1)
    text, _ = model.prompt([asking([note])])
    assert isinstance(text, list)
    prompt = alice.codec.tokenizer.to_bytes(text).decode()
    assert prompt.startswith("Recalled memories (quoted records")
    assert f"[1] user:\n> {FACT}\n\n{ASK}" in prompt


def test_streaming_and_invoking_say_the_same_and_count_the_same(alice: Scope) -> None:
    note = alice.remember(FACT)
    model = ChatNextMem(memory=alice, max_tokens=6)
    chunks = list(model.stream([asking([note])]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk  # type: ignore[assignment]
    reply = model.invoke([asking([note])])
    assert whole.text == reply.text
    assert whole.usage_metadata == reply.usage_metadata
    assert reply.response_metadata["finish_reason"] in ("stop", "length")
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["input_tokens"] == 1 + alice.codec.count_tokens(ASK) + 1


def test_a_reply_ends_where_its_time_does(codec: LatentCodec) -> None:
    reply = ChatNextMem(codec=codec, timeout=1e-9).invoke("Hello")
    assert reply.response_metadata["finish_reason"] in ("timeout", "stop")
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 1


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"userid": "x"}, {"codec": 5}, {"max_tokens": 0}])
def test_malformed_settings_are_found_at_once(codec: LatentCodec, wrong: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, InvalidArgument)):
        ChatNextMem(**{"codec": codec, **wrong})
    with pytest.raises(InvalidArgument, match="takes no 'temprature'"):
        ChatNextMem(codec=codec).invoke("Hello", temprature=1)


def test_the_codec_is_the_memorys_or_loaded_by_name(alice: Scope, tmp_path: Path) -> None:
    assert ChatNextMem(memory=alice).codec is alice.codec
    tiny.write_whole(tmp_path / "codec")
    assert ChatNextMem(codec=tmp_path / "codec").model_name == "tiny"


# Tool calls, with the words that a trained Qwen3 would say.


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


Says = Callable[..., ChatNextMem]


@pytest.fixture
def says(chatty: LatentCodec, monkeypatch: pytest.MonkeyPatch) -> Says:
    """A model whose replies are given, and come character by character."""
    prompts: list[list[Any]] = []

    def make(*lines: str, **settings: Any) -> ChatNextMem:
        left = iter(lines)

        def stream(_: Any, prompt: list[Any], __: Any) -> Iterator[Piece]:
            prompts.append(prompt)
            line = next(left)
            for i, character in enumerate(line, 1):
                yield Piece(character, None, Usage(9, 0, i))
            yield Piece("", "stop", Usage(9, 0, len(line) + 1))

        monkeypatch.setattr("langchain_nextmem.chat_model.stream", stream)
        return ChatNextMem(codec=chatty, **settings)

    make.prompts = prompts  # type: ignore[attr-defined]
    return make


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def test_a_call_is_told_from_the_text_and_streams_whole(says: Says) -> None:
    model = says(f"<think>\nHm.\n</think>\n\nLet me see.\n{CALL}\n{CALL}").bind_tools([weather])
    reply = model.invoke("How is Oslo?")
    assert reply.text == "Let me see."
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [("weather", {"city": "Oslo"})] * 2
    assert len({call["id"] for call in reply.tool_calls}) == 2
    assert reply.additional_kwargs["reasoning_content"] == "\nHm.\n"
    assert reply.response_metadata["finish_reason"] == "tool_calls"
    text = "".join(chunk.text for chunk in says(f"So. {CALL}").bind_tools([weather]).stream("How is Oslo?"))
    assert text == "So. "


def test_a_broken_call_is_invalid_and_is_not_called(says: Says) -> None:
    broken = '<tool_call>\n{"name": "weather", "arguments": {"city": "Os</tool_call>'
    reply = says(broken).bind_tools([weather]).invoke("How is Oslo?")
    assert reply.tool_calls == []
    assert "Os" in (reply.invalid_tool_calls[0]["args"] or "")


def test_without_tools_nothing_is_called(says: Says) -> None:
    assert says(CALL).invoke("How is Oslo?").tool_calls == []
    assert says(CALL).bind_tools([weather], tool_choice="none").invoke("How?").tool_calls == []


@pytest.mark.parametrize(
    ("choice", "begins", "rest"),
    [
        ("any", "<tool_call>\n", '{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'),
        ("weather", '<tool_call>\n{"name": "weather", "arguments": ', '{"city": "Oslo"}}\n</tool_call>'),
    ],
)
def test_a_choice_is_enforced_by_beginning_the_reply(says: Says, choice: str, begins: str, rest: str) -> None:
    model = says(rest)
    reply = model.bind_tools([weather], tool_choice=choice).invoke("Hi.")
    assert reply.tool_calls[0]["args"] == {"city": "Oslo"}
    prompt = says.prompts[-1]  # type: ignore[attr-defined]
    ids = [index for part in prompt for index in part]
    assert model.codec.tokenizer.to_bytes(ids).decode().endswith(begins)
    with pytest.raises(InvalidArgument, match="none of the tools: weather"):
        model.bind_tools([weather], tool_choice="news")


class Place(BaseModel):
    """A place."""

    city: str


def test_structured_output_is_a_forced_call(says: Says) -> None:
    model = says('{"name": "Place", "arguments": {"city": "Oslo"}}\n</tool_call>')
    assert model.with_structured_output(Place).invoke("Where?") == Place(city="Oslo")


def test_mini_calls_no_tools(codec: LatentCodec) -> None:
    model = ChatNextMem(codec=codec)
    assert not model.can_call_tools
    with pytest.raises(InvalidArgument, match="use a codec on Qwen3"):
        model.bind_tools([weather])


async def test_an_agent_calls_the_tool_and_reads_its_result(says: Says) -> None:
    for how in ("sync", "async"):
        model = says(CALL, "Sunny.")
        agent = create_agent(model, [weather], system_prompt="Be brief.")
        asked: Any = {"messages": [HumanMessage("How is Oslo?")]}
        result = agent.invoke(asked) if how == "sync" else await agent.ainvoke(asked)
        kinds = [type(message) for message in result["messages"]]
        assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
        prompt = says.prompts[-1]  # type: ignore[attr-defined]
        read = model.codec.tokenizer.to_bytes([index for part in prompt for index in part]).decode()
        assert "user\n<tool_response>\nSunny in Oslo.\n</tool_response>" in read
        assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in read
        assert read.startswith("system\nBe brief.\n\n# Tools")


async def test_calls_at_once_share_the_model(alice: Scope) -> None:
    notes = [alice.remember(text) for text in (FACT, "The cat is called Mia.", "Bob likes jazz.")]
    model = ChatNextMem(memory=alice, max_tokens=5)
    alone = [model.invoke([SystemMessage("Be brief."), asking([note])]).text for note in notes]
    at_once = await asyncio.gather(
        *(model.ainvoke([SystemMessage("Be brief."), asking([note])]) for note in notes)
    )
    assert [reply.text for reply in at_once] == alone
