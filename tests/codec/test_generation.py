"""Generation from prompts of tokens and latents: the same numbers as a forward pass that is built by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextmem_agents import CodecMismatch, EmptyText, InvalidArgument, LatentCodec, Latents, TextTooLong
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.generation import (
    Completion,
    Sampling,
    Usage,
    _Text,
    embed_prompt,
    generate,
    next_token_logits,
    stream,
)
from nextmem_agents.codec.injection import prompt_positions
from tests.codec.tiny import TEXTS

SHORT = Sampling(max_new_tokens=12)


@pytest.fixture
def memory(any_codec: LatentCodec) -> Latents:
    return any_codec.encode([TEXTS[0], TEXTS[5]])


@pytest.fixture
def prompt(any_codec: LatentCodec, memory: Latents) -> list[Any]:
    before, after = any_codec.tokenizer.encode(["Remember: ", "\nWhere does she live?"])
    return [before, memory, after]


def by_hand(codec: LatentCodec, prompt: list[Any], more: list[int]) -> Tensor:
    """The last position's logits of one forward pass of transformers' own model over ``inputs_embeds``."""
    before, memory, after = prompt
    table = codec.reader.model.get_input_embeddings()
    rows = [row[:n] for row, n in zip(memory.values, memory.lengths.tolist(), strict=True)]
    parts = [table(torch.tensor(before)), *(row * codec.config.latent_scale for row in rows)]
    parts += [table(torch.tensor(after + more))]
    stride = codec.config.tokens_per_latent if codec.config.positions == "aligned" else 1
    steps = [1] * len(before) + [stride] * sum(map(len, rows)) + [1] * len(after + more)
    positions = torch.tensor([sum(steps[:i]) for i in range(len(steps))])  # type: ignore[arg-type]
    with torch.inference_mode():
        result = codec.reader.model(inputs_embeds=torch.cat(parts)[None], position_ids=positions[None])
    return result.logits[0, -1].float()  # type: ignore[no-any-return]


def test_logits_are_those_of_a_forward_pass_built_by_hand(any_codec: LatentCodec, prompt: list[Any]) -> None:
    torch.testing.assert_close(next_token_logits(any_codec, prompt), by_hand(any_codec, prompt, []))


def test_greedy_takes_the_best_token_of_each_forward_pass(any_codec: LatentCodec, prompt: list[Any]) -> None:
    ids: list[int] = []
    while len(ids) < 12 and (not ids or ids[-1] not in any_codec.config.ends):
        ids.append(int(by_hand(any_codec, prompt, ids).argmax()))
    done = generate(any_codec, prompt, SHORT)
    assert done.text == any_codec.tokenizer.to_bytes(ids).decode("utf-8", "replace")
    assert done.usage.new_tokens == len(ids)
    assert done.finish == ("stop" if ids[-1] in any_codec.config.ends else "length")


def test_usage_counts_tokens_and_latent_positions_apart(any_codec: LatentCodec, prompt: list[Any]) -> None:
    before, memory, after = prompt
    pieces = list(stream(any_codec, prompt, SHORT))
    usage = pieces[-1].usage
    assert (usage.prompt_tokens, usage.latent_positions) == (
        len(before) + len(after),
        int(memory.lengths.sum()),
    )
    assert [piece.usage.new_tokens for piece in pieces] == list(range(1, len(pieces) + 1))
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    whole = generate(any_codec, prompt, SHORT)
    assert whole == Completion("".join(piece.text for piece in pieces), pieces[-1].finish or "length", usage)


def test_embeddings_for_another_engine_are_what_the_model_is_given(
    any_codec: LatentCodec, prompt: list[Any]
) -> None:
    embeddings = embed_prompt(any_codec, prompt)
    before, memory, after = prompt
    assert embeddings.shape == (len(before) + int(memory.lengths.sum()) + len(after), any_codec.dim)
    rows = [row[:n] for row, n in zip(memory.values, memory.lengths.tolist(), strict=True)]
    positions = prompt_positions(any_codec.config, [before, *rows, after])
    with torch.inference_mode():
        result = any_codec.reader.model(inputs_embeds=embeddings[None], position_ids=positions[None])
    torch.testing.assert_close(result.logits[0, -1].float(), next_token_logits(any_codec, prompt))


def test_another_memory_changes_the_logits_and_only_ones_own_does(
    whole: LatentCodec,
) -> None:
    one, other = whole.encode([TEXTS[0]]), whole.encode([TEXTS[6]])
    ids = whole.tokenizer.encode(["Where?"])[0]
    before = next_token_logits(whole, [one, ids])
    assert not torch.allclose(before, next_token_logits(whole, [other, ids]))
    assert torch.equal(before, next_token_logits(whole, [one, ids]))


def test_foreign_latents_are_refused_before_any_forward_pass(
    whole: LatentCodec, fixed: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = fixed.encode([TEXTS[0]])

    def hidden(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Backbone, "hidden", hidden)
    for call in (stream, next_token_logits, embed_prompt):
        with pytest.raises(CodecMismatch, match="use the codec that made them"):
            call(whole, [[5, 6], foreign])


def test_a_prompt_must_say_something_and_leave_room(whole: LatentCodec) -> None:
    for empty in ([], [[]], [whole.encode([])]):
        with pytest.raises(EmptyText):
            stream(whole, empty)
    limit = whole.reader.model.config.max_position_embeddings
    with pytest.raises(TextTooLong, match=f"{limit} positions, and the backbone of 'tiny' has {limit}"):
        stream(whole, [[5] * limit])
    done = generate(whole, [[5] * (limit - 2)], Sampling(max_new_tokens=9, ends=frozenset()))
    assert done.usage.new_tokens <= 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"stop": ("",)},
        {"stop": "x"},
    ],
)
def test_impossible_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Sampling(**wrong)


def test_a_seed_repeats_a_draw_and_a_small_nucleus_or_temperature_is_greedy(whole: LatentCodec) -> None:
    prompt = [whole.tokenizer.encode(["The committee met"])[0]]

    def text(**settings: Any) -> str:
        return generate(whole, prompt, Sampling(max_new_tokens=16, **settings)).text

    assert text(temperature=1.0, seed=1) == text(temperature=1.0, seed=1)
    assert len({text(temperature=1.0, seed=seed) for seed in range(4)}) > 1
    assert text(temperature=1.0) != text(temperature=1.0)
    greedy = text()
    assert text(temperature=1e-6, seed=1) == greedy
    assert text(temperature=1.0, top_p=1e-6, seed=1) == greedy


def test_draws_follow_the_probabilities_within_the_nucleus() -> None:
    from nextmem_agents.codec.generation import _Draw

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draw = _Draw(Sampling(temperature=1.0, top_p=0.7, seed=0))
    drawn = torch.bincount(torch.tensor([draw(logits) for _ in range(2000)]), minlength=4) / 2000
    torch.testing.assert_close(drawn, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.04, rtol=0)


def test_own_end_tokens_and_given_ones_end_the_text(whole: LatentCodec) -> None:
    prompt = [whole.tokenizer.encode(["The committee met"])[0]]
    first = int(next_token_logits(whole, prompt).argmax())
    done = generate(whole, prompt, Sampling(ends=frozenset({first})))
    assert done == Completion("", "stop", Usage(len(prompt[0]), 0, 1))


class _Bytes:
    """Token i is byte i."""

    class tokenizer:  # noqa: N801
        @staticmethod
        def to_bytes(ids: list[int]) -> bytes:
            return bytes(ids)


@given(
    text=st.text(alphabet="abé漢🎉", max_size=24),
    stop=st.lists(st.text(alphabet="abé漢🎉", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_stop_strings_cut_the_text_and_are_never_shown(text: str, stop: list[str]) -> None:
    pieces, shown = _Text(_Bytes(), stop), ""  # type: ignore[arg-type]
    for byte in text.encode():
        shown += pieces.add(byte)
        assert not any(each in shown for each in stop)
        if pieces.stopped:
            break
    else:
        shown += pieces.rest()
    # The string that is complete first ends the text, and the text ends where it begins.
    ends = [text.find(each) + len(each) for each in stop if each in text]
    assert pieces.stopped == bool(ends)
    if ends:
        end = min(ends)
        text = min((text[: end - len(each)] for each in stop if text[:end].endswith(each)), key=len)
    assert shown == text


def test_a_text_cut_inside_a_character_ends_in_the_replacement_mark() -> None:
    pieces = _Text(_Bytes(), [])  # type: ignore[arg-type]
    assert pieces.add("é".encode()[0]) == ""
    assert pieces.rest() == "\ufffd"


def test_threads_share_a_codec_without_seeing_each_other(whole: LatentCodec) -> None:
    prompts = [[whole.encode([text]), whole.tokenizer.encode(["Repeat."])[0]] for text in TEXTS[:4]]
    alone = [generate(whole, prompt, SHORT) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda prompt: generate(whole, prompt, SHORT), prompts)) == alone
