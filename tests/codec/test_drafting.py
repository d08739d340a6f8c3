"""Decoding that begins with a draft gives what single steps give, whatever the draft says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import LatentCodec
from nextmem_agents.codec import drafting, exact
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.cache import StaticCache
from nextmem_agents.codec.decoder import cached_leads, greedy_batch
from nextmem_agents.codec.drafting import can_draft, greedy_from_drafts
from nextmem_agents.codec.exact import compress, decode_payloads, decompress
from nextmem_agents.training.synthetic import synthetic_texts
from tests.codec import tiny

KINDS = ["whole", "fixed", "adapted"]


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return LatentCodec.load()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_draft_of_any_width_gives_the_tokens_of_single_steps(
    kind: str, data: st.DataObject, request: pytest.FixtureRequest
) -> None:
    codec: LatentCodec = request.getfixturevalue(kind)
    texts = data.draw(st.lists(st.sampled_from(tiny.TEXTS), min_size=1, max_size=5))
    ids = codec.tokenizer.encode(texts)
    steps = [len(row) for row in ids]
    latents = codec.encode(texts)
    leads = cached_leads(codec.decoder, codec.config, latents.values, latents.lengths, ids)
    seed = data.draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    # Some of the repairs that the texts need; a random codec gets most tokens wrong.
    chosen = [
        {i: row[i] for i, lead in enumerate(of) if lead < 1e-3} for row, of in zip(ids, leads, strict=True)
    ]
    kept = data.draw(st.sampled_from([0.0, 0.8, 1.0]))
    repairs = [
        {i: token for i, token in row.items() if torch.rand(1, generator=generator) < kept} for row in chosen
    ]
    given_ = codec.decoder, codec.config, latents.values, latents.lengths
    expected = greedy_batch(*given_, steps=steps, repairs=repairs, stop_at_end=False)
    width = data.draw(st.integers(0, max(steps) + 9))
    drafts = torch.randint(0, 400, (len(ids), width), generator=generator)
    right = torch.rand(drafts.shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.7, 1.0]))
    for i, row in enumerate(expected):
        n = min(len(row), width)
        drafts[i, :n] = torch.where(right[i, :n], torch.tensor(row[:n]), drafts[i, :n])
    assert greedy_from_drafts(*given_, steps=steps, repairs=repairs, drafts=drafts) == expected


@torch.inference_mode()
@pytest.mark.parametrize("padded", [False, True])
def test_positions_placed_anew_are_those_of_single_steps(padded: bool) -> None:
    backbone = Backbone(tiny.model(), fuse=True)
    generator = torch.Generator().manual_seed(0)
    prompt, after = (torch.randn(2, n, 64, generator=generator) for n in (4, 6))
    mask = torch.ones(2, 4, dtype=torch.int64)
    if padded:
        mask[1, 1:3] = 0
    place = torch.arange(10).expand(2, -1)
    caches = backbone.new_cache(12), backbone.new_cache(12)
    for cache in caches:
        backbone.hidden(prompt, mask, place[:, :4], cache)
    expected = torch.cat(
        [backbone.step(after[:, i : i + 1], place[:, 4 + i : 5 + i], caches[0]) for i in range(6)], 1
    )
    assert isinstance(caches[1], StaticCache)
    for held in caches[1].held:
        held[:, :, :, 4:] = float("nan")  # as memory may be found
    # First both rows with wrong tokens, then each on from where it is right: one at 1, one at 3.
    caches[1].place(4 + torch.arange(4).expand(2, -1))
    wrong = torch.randn(2, 4, 64, generator=generator)
    wrong[0, :1], wrong[1, :3] = after[0, :1], after[1, :3]
    first = backbone.step(wrong, place[:, 4:8], caches[1])
    at = torch.tensor([[1, 2, 3], [3, 4, 5]])
    caches[1].place(4 + at)
    second = backbone.step(after.gather(1, at[..., None].expand(-1, -1, 64)), 4 + at, caches[1])
    assert torch.allclose(first[1, :3], expected[1, :3], atol=1e-5)
    assert torch.allclose(second, expected.gather(1, at[..., None].expand(-1, -1, 64)), atol=1e-5)


def test_shipped_codecs_draft_most_of_a_text_and_take_a_fraction_of_the_passes(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        text for text in synthetic_texts(200, seed=11) if 40 <= len(codec.tokenizer.encode([text])[0]) <= 128
    ][:4]
    payloads = [chunks[0].payload for chunks in compress(codec, texts)]
    rows = codec.tokenizer.encode(texts)
    drafts = codec.draft(
        codec.dequantize([payload.latents for payload in payloads if payload.latents is not None])
    )
    assert drafts is not None
    right = sum(int((drafts[i, : len(row)] == torch.tensor(row)).sum()) for i, row in enumerate(rows))
    assert right > 0.7 * sum(map(len, rows))
    passes = []
    step = Backbone.step

    def counted(self: Backbone, *args: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        return step(self, *args)

    monkeypatch.setattr(Backbone, "step", counted)
    assert [text.decode() for text in decode_payloads(codec, payloads)] == texts
    drafted = len(passes)
    assert [text.decode() for text in decode_payloads(codec, payloads, drafted=False)] == texts
    assert drafted < (len(passes) - drafted) / 3


def test_texts_come_back_however_many_are_asked_for_at_once(codec: LatentCodec) -> None:
    texts = [text for text in synthetic_texts(60, seed=3) if text][:24]
    payloads = [[chunk.payload for chunk in chunks] for chunks in compress(codec, texts)]
    for size in (1, 2, 3, drafting.MOST, drafting.MOST + 1, len(texts)):
        found = decompress(codec, payloads[:size])
        assert [each.text for each in found] == texts[:size]
        assert all(each.exact for each in found)


def test_a_wrong_text_is_decoded_again_step_by_step(
    codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = [
        [chunk.payload for chunk in chunks] for chunks in compress(codec, ["Anna moved to Lisbon in May."])
    ]
    monkeypatch.setattr(exact, "greedy_from_drafts", lambda *_, steps, **__: [[5] * n for n in steps])
    [found] = decompress(codec, payloads)
    assert (found.text, found.exact) == ("Anna moved to Lisbon in May.", True)


def test_there_is_no_draft_without_named_tokens_or_in_another_type(
    whole: LatentCodec, codec: LatentCodec
) -> None:
    assert whole.draft(whole.encode(["Anna"])) is None
    assert can_draft(codec.decoder)
    assert not can_draft(codec.in_profile("bfloat16/cpu").decoder)
    payload = compress(codec, ["Anna moved to Lisbon in May."])[0][0].payload
    assert decode_payloads(codec.in_profile("bfloat16/cpu"), [payload])
