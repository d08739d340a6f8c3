"""Whom a call of ChatNextMem is for: its config, what a cache keeps, and what its tokens are."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, trim_messages
from langchain_core.runnables import RunnableConfig

from langchain_nextmem import ChatNextMem, memory_block
from nextmem_agents import InvalidArgument, NextMem

FACT = "She moved to Lisbon in May."
ASK = "Where does she live?"
BLOCK = [HumanMessage([memory_block(["code"]), {"type": "text", "text": "Code?"}])]


@pytest.fixture
def coded(memory: NextMem) -> NextMem:
    """Two users and the default scope, each with a memory of the same id and of another number of latents."""
    for name, text in [("ann", "Short."), ("bob", FACT), ("default", f"{FACT} {ASK} " * 12)]:
        memory.scope(name).remember(text, id="code")
    return memory


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
async def test_a_direct_calls_config_names_whose_memories_are_read(coded: NextMem) -> None:
    scopes = {name: coded.scope(name) for name in ("ann", "default")}
    assert scopes["ann"].get("code").n_latents != scopes["default"].get("code").n_latents
    model = ChatNextMem(memory=coded, max_tokens=2)
    ann: RunnableConfig = {"configurable": {"user_id": "ann"}}

    def positions(reply: Any) -> int:
        return int(reply.usage_metadata["input_token_details"]["latent_positions"])

    replies = {
        "invoke": model.invoke(BLOCK, ann),
        "with_config": model.with_config(ann).invoke(BLOCK),
        "batch": model.batch([BLOCK], ann)[0],
        "stream": next(model.stream(BLOCK, ann)),
        "ainvoke": await model.ainvoke(BLOCK, ann),
        "abatch": (await model.abatch([BLOCK], ann))[0],
        "astream": await anext(model.astream(BLOCK, ann)),
    }
    async for event in model.astream_events(BLOCK, ann, version="v2"):
        if event["event"] == "on_chat_model_end":
            replies["astream_events"] = event["data"]["output"]
    if hasattr(BaseChatModel, "stream_events"):  # not in LangChain 1.0
        replies["stream_events"] = model.stream_events(BLOCK, ann, version="v3").output
        streamed = await model.astream_events(BLOCK, ann, version="v3")
        replies["astream_events v3"] = await streamed.output
    assert {how: positions(reply) for how, reply in replies.items()} == dict.fromkeys(
        replies, scopes["ann"].get("code").n_latents
    )
    assert positions(model.invoke(BLOCK)) == scopes["default"].get("code").n_latents
    with pytest.raises(InvalidArgument, match="the adapter serves 'bob' alone"):
        ChatNextMem(memory=coded.scope("bob"), max_tokens=2).invoke(BLOCK, ann)


async def test_no_cache_gives_one_users_reply_to_another(coded: NextMem) -> None:
    cache = InMemoryCache()
    ann, bob = (ChatNextMem(memory=coded.scope(name), max_tokens=2, cache=cache) for name in ("ann", "bob"))
    for _ in range(2):
        ids = {model.invoke(BLOCK).id for model in (ann, bob)}
        assert ids.isdisjoint({(await model.ainvoke(BLOCK)).id for model in (ann, bob)})
    assert cache._cache == {}
    assert ann.invoke("Hello").text == bob.invoke("Hello").text
    assert len(cache._cache) == 1


def test_tokens_are_counted_by_the_codecs_own_tokenizer_and_latents_as_positions(coded: NextMem) -> None:
    model = ChatNextMem(memory=coded.scope("ann"), max_tokens=2)
    assert model.get_num_tokens(FACT) == len(model.codec.tokenizer.encode([FACT])[0]) > 0
    assert ChatNextMem(codec=model.codec, custom_get_token_ids=lambda _: [1]).get_num_tokens(FACT) == 1
    assert model.get_num_tokens_from_messages([]) == 0
    usage = model.invoke(BLOCK).usage_metadata
    assert usage is not None
    assert model.get_num_tokens_from_messages(BLOCK) == usage["input_tokens"]
    said = [HumanMessage(FACT), AIMessage("How nice!"), HumanMessage(ASK)]
    most = model.get_num_tokens_from_messages(said[1:])
    assert trim_messages(said, max_tokens=most, token_counter=model, strategy="last") == said[1:]
