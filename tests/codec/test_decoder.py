from __future__ import annotations

import dataclasses

import pytest
import torch

from nextmem_agents import LatentCodec
from nextmem_agents.codec import decoder
from nextmem_agents.codec.decoder import BLOCK, cached_leads, greedy_batch, teacher_forced_batch
from nextmem_agents.codec.latents import Latents
from tests.codec.tiny import TEXTS


def greedy(codec: LatentCodec, latents: Latents, steps: int = 24, **options: object) -> list[list[int]]:
    return greedy_batch(
        codec.decoder,
        codec.config,
        latents.values,
        latents.lengths,
        steps=[steps] * len(latents),
        **options,  # type: ignore[arg-type]
    )


def test_the_parallel_pass_predicts_what_greedy_decoding_does(any_codec: LatentCodec) -> None:
    latents = any_codec.encode(TEXTS)
    rows = greedy(any_codec, latents, stop_at_end=False)
    predicted, leads = teacher_forced_batch(
        any_codec.decoder, any_codec.config, latents.values, latents.lengths, rows
    )
    for row, best, lead in zip(rows, predicted, leads, strict=True):
        assert best == row
        assert min(lead) > -1e-4


def test_a_lead_is_negative_just_where_the_argmax_is_wrong(any_codec: LatentCodec) -> None:
    latents = any_codec.encode(TEXTS)
    rows = any_codec.tokenizer.encode(TEXTS)
    predicted, leads = teacher_forced_batch(
        any_codec.decoder, any_codec.config, latents.values, latents.lengths, rows
    )
    for row, best, lead in zip(rows, predicted, leads, strict=True):
        assert [a == b for a, b in zip(row, best, strict=True)] == [value >= 0 for value in lead]


def test_repairs_lead_greedy_decoding_along_the_true_tokens(any_codec: LatentCodec) -> None:
    latents = any_codec.encode(TEXTS)
    rows = any_codec.tokenizer.encode(TEXTS)
    _, leads = teacher_forced_batch(
        any_codec.decoder, any_codec.config, latents.values, latents.lengths, rows
    )
    repairs = [
        {i: row[i] for i, value in enumerate(lead) if value < 1e-3}
        for row, lead in zip(rows, leads, strict=True)
    ]
    decoded = greedy_batch(
        any_codec.decoder,
        any_codec.config,
        latents.values,
        latents.lengths,
        steps=[len(row) for row in rows],
        repairs=repairs,
        stop_at_end=False,
    )
    assert decoded == rows


def test_a_batch_equals_its_rows_alone(any_codec: LatentCodec) -> None:
    latents = any_codec.encode(TEXTS)
    together = greedy(any_codec, latents)
    for i in range(len(TEXTS)):
        assert greedy(any_codec, latents[i : i + 1]) == [together[i]]


def test_every_end_token_ends_a_row_and_is_not_part_of_it(whole: LatentCodec) -> None:
    latents = whole.encode(TEXTS[:1])
    free = greedy(whole, latents, stop_at_end=False)[0]
    stop = free[5]
    whole_config = dataclasses.replace(whole.config, end_tokens=(stop,))
    rows = greedy_batch(whole.decoder, whole_config, latents.values, latents.lengths, steps=[24])
    assert rows == [free[: free.index(stop)]]


def test_each_row_takes_at_most_its_steps(whole: LatentCodec) -> None:
    latents = whole.encode(TEXTS[:2])
    rows = greedy_batch(
        whole.decoder, whole.config, latents.values, latents.lengths, steps=[3, 7], stop_at_end=False
    )
    assert [len(row) for row in rows] == [3, 7]


@torch.inference_mode()
def test_generated_tokens_get_their_plain_embedding(adapted: LatentCodec) -> None:
    sod = torch.tensor([adapted.config.start_of_decode])
    special = adapted.decoder.special_tokens
    assert special is not None
    difference = adapted.decoder.embed(sod) - adapted.decoder.embed_generated(sod)
    assert torch.allclose(difference, special.additions[:1].float(), atol=1e-6)


@pytest.mark.parametrize("block", [1, 3, BLOCK])
def test_the_cached_decoder_fed_with_the_true_tokens_tells_what_greedy_decoding_needs(
    any_codec: LatentCodec, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "BLOCK", block)
    latents = any_codec.encode(TEXTS)
    rows = any_codec.tokenizer.encode(TEXTS)
    arguments = any_codec.decoder, any_codec.config, latents.values, latents.lengths
    leads = cached_leads(*arguments, rows)
    assert [len(lead) for lead in leads] == [len(row) for row in rows]
    for cached, parallel in zip(leads, teacher_forced_batch(*arguments, rows)[1], strict=True):
        assert torch.allclose(torch.tensor(cached), torch.tensor(parallel), atol=1e-4)
    repairs = [
        {i: row[i] for i, value in enumerate(lead) if value < 1e-3}
        for row, lead in zip(rows, leads, strict=True)
    ]
    assert all(repairs)  # a random codec gets nearly every token wrong
    steps = [len(row) for row in rows]
    assert greedy_batch(*arguments, steps=steps, repairs=repairs, stop_at_end=False) == rows
    fewer = [dict(list(each.items())[:-1]) for each in repairs]
    found = greedy_batch(*arguments, steps=steps, repairs=fewer, stop_at_end=False)
    assert all(a != b for a, b in zip(found, rows, strict=True))
