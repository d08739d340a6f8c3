"""NextMemLLM: the codec's backbone behind LlamaIndex's interface, and latents where a message carries memories."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler

from llama_index_nextmem import NextMemLLM
from llama_index_nextmem.injection import memory_message
from nextmem_agents import CodecMismatch, InvalidArgument, LatentCodec, MemoryNotFound, NextMem, Scope
from nextmem_agents.codec.generation import Sampling, generate, next_token_logits

QUESTION = "Where did I move?"


@pytest.fixture
def llm(alice: Scope) -> NextMemLLM:
    return NextMemLLM(alice, max_new_tokens=3)


@torch.inference_mode()
def by_hand(scope: Scope, note: str, question: str) -> torch.Tensor:
    """Logits after a memory's latents, a question and [SoD], by one forward over input embeddings."""
    codec, memory = scope.codec, scope.get(note)
    latents = torch.cat(
        [codec.dequantize([p.latents]).values[0] for p in memory.batch.payloads(0) if p.latents]
    )
    words = torch.tensor([*codec.tokenizer.encode([question])[0], codec.config.start_of_decode])
    model = codec.decoder.model
    embeddings = torch.cat([latents * codec.config.latent_scale, model.get_input_embeddings()(words)])
    stride = codec.config.tokens_per_latent if codec.config.positions == "aligned" else 1
    n = len(latents)
    positions = torch.cat([torch.arange(n) * (stride or 1), n * (stride or 1) + torch.arange(len(words))])
    logits: torch.Tensor = model(inputs_embeds=embeddings[None], position_ids=positions[None]).logits[0, -1]
    return logits


def test_a_message_with_a_memory_is_the_forward_over_its_latents(alice: Scope, llm: NextMemLLM) -> None:
    note, other = alice.remember(["I moved to Lisbon in May.", "The cat is called Mia."])
    found = next_token_logits(llm.codec, llm.prompt([memory_message(alice, [note], QUESTION)]))
    torch.testing.assert_close(found, by_hand(alice, note, QUESTION), rtol=1e-4, atol=1e-3)
    another = next_token_logits(llm.codec, llm.prompt([memory_message(alice, [other], QUESTION)]))
    assert (found - another).abs().max() > 0.1


async def test_all_ways_of_asking_give_the_same_reply(alice: Scope, llm: NextMemLLM) -> None:
    note = alice.remember("I moved to Lisbon in May.")
    messages = [memory_message(alice, [note], QUESTION)]
    whole = llm.chat(messages)
    pieces = list(llm.stream_chat(messages))
    again = await llm.achat(messages)
    apieces = [piece async for piece in await llm.astream_chat(messages)]
    expected = generate(llm.codec, llm.prompt(messages), Sampling(max_new_tokens=3))
    for reply in (whole, pieces[-1], again, apieces[-1]):
        assert reply.message.content == expected.text.strip("\n")
    for stream in (pieces, apieces):
        assert "".join(piece.delta or "" for piece in stream) == whole.message.content
    assert expected.usage.latent_positions == alice.get(note).n_latents
    assert whole.raw["usage"] == {
        "prompt_tokens": expected.usage.prompt_tokens + expected.usage.latent_positions,
        "completion_tokens": expected.usage.new_tokens,
        "total_tokens": expected.usage.prompt_tokens
        + expected.usage.latent_positions
        + expected.usage.new_tokens,
        "latent_positions": expected.usage.latent_positions,
    }


async def test_a_text_is_continued_as_it_is(alice: Scope, llm: NextMemLLM) -> None:
    prompt = "The weather is"
    expected = generate(llm.codec, llm.codec.tokenizer.encode([prompt]), Sampling(max_new_tokens=3)).text
    assert expected
    assert llm.complete(prompt).text == (await llm.acomplete(prompt)).text == expected
    assert [*llm.stream_complete(prompt)][-1].text == expected
    assert [piece async for piece in await llm.astream_complete(prompt)][-1].text == expected
    assert (
        llm.complete(prompt, max_new_tokens=1).text
        == expected[: len(llm.complete(prompt, max_new_tokens=1).text)]
    )
    assert llm.complete(prompt, stop=[expected]).text == ""


def test_an_id_is_read_in_its_own_scope_and_in_no_other(
    memory: NextMem, alice: Scope, llm: NextMemLLM
) -> None:
    bob = memory.scope("bob")
    alice.remember("I moved to Lisbon.", id="note")
    bob.remember("I moved to Rome.", id="note")
    mine, his = memory_message(alice, ["note"], QUESTION), memory_message(bob, ["note"], QUESTION)
    before = next_token_logits(llm.codec, llm.prompt([mine]))
    with pytest.raises(
        InvalidArgument, match=r"memories of the scope 'bob'.*reads 'alice'.*llm\.over\(scope\)"
    ):
        llm.chat([his])
    theirs = next_token_logits(llm.codec, llm.over(bob).prompt([his]))
    assert not torch.equal(before, theirs)
    assert torch.equal(before, next_token_logits(llm.codec, llm.prompt([mine])))
    with pytest.raises(MemoryNotFound):
        llm.chat([memory_message(alice, ["no such memory"], QUESTION)])
    with pytest.raises(InvalidArgument, match=r"NextMemLLM\(memory=scope\)"):
        NextMemLLM(codec=alice.codec).chat([mine])


def test_a_foreign_fingerprint_is_refused_before_any_forward(
    alice: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = alice.remember("I moved to Lisbon.")
    foreign = LatentCodec.load("mini", levels=8)
    assert foreign.fingerprint != alice.codec.fingerprint

    def forward(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a forward was computed")

    monkeypatch.setattr(type(foreign.reader), "hidden", forward)
    with pytest.raises(CodecMismatch):
        NextMemLLM(alice, codec=foreign).chat([memory_message(alice, [note], QUESTION)])


async def test_the_event_loop_goes_on_while_it_generates(
    llm: NextMemLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    hidden = type(llm.codec.reader).hidden

    def watched(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.current_thread())
        return hidden(*args, **kwargs)

    monkeypatch.setattr(type(llm.codec.reader), "hidden", watched)
    await llm.achat([ChatMessage("Hello.")])
    _ = [piece async for piece in await llm.astream_complete("Hello.")]
    assert threads
    assert threading.main_thread() not in threads


def test_llama_index_counts_its_tokens(alice: Scope) -> None:
    counter = TokenCountingHandler()
    llm = NextMemLLM(alice, max_new_tokens=2, callback_manager=CallbackManager([counter]))
    used = llm.chat([ChatMessage("Hello.")]).raw["usage"]
    assert counter.prompt_llm_token_count == used["prompt_tokens"] > 0
    assert counter.completion_llm_token_count == used["completion_tokens"] > 0


def test_settings_are_checked_when_it_is_made_and_when_it_is_asked(alice: Scope, llm: NextMemLLM) -> None:
    with pytest.raises(InvalidArgument, match="temperature"):
        NextMemLLM(alice, temperature=-1)
    with pytest.raises(InvalidArgument, match="takes no 'tools'"):
        llm.chat([ChatMessage("Hello.")], tools=[])
    assert (llm.metadata.model_name, llm.metadata.is_function_calling_model) == (
        alice.codec.config.name,
        False,
    )
    assert llm.metadata.context_window == alice.codec.reader.model.config.max_position_embeddings


def test_an_unknown_setting_is_refused_and_a_saved_llm_wants_its_scope_again(alice: Scope) -> None:
    with pytest.raises(InvalidArgument, match="takes no 'max_tokens'"):
        NextMemLLM(alice, max_tokens=5)
    saved = NextMemLLM(alice, max_new_tokens=7).to_dict()
    with pytest.raises(InvalidArgument, match="pass the scope again"):
        NextMemLLM.from_dict(saved)
    again = NextMemLLM.from_dict(saved, memory=alice)
    assert (again.scope, again.max_new_tokens) == (alice, 7)
