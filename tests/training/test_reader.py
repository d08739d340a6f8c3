"""The reader learns from both kinds of memories, and answers through the codec that it is exported with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nextmem_agents import CannotAnswer, DataError, LatentCodec, NextMem
from nextmem_agents.codec.injection import prompt_positions, reader_prompt
from nextmem_agents.evaluation.reading import Asked, evaluate, held_out_facts
from nextmem_agents.training.export import extend_codec
from nextmem_agents.training.reader import Example, Examples, ReaderConfig, batch_of, train_reader
from tests.codec import tiny

CONFIG = ReaderConfig(
    steps=4, batch_size=4, warmup_steps=1, checkpoint_every=2, questions={}, facts_share=1.0, rank=4
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("codec")
    tiny.write_whole(folder)
    return LatentCodec.load(folder)


@pytest.fixture(scope="module")
def reading(codec: LatentCodec, tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("reading")
    train_reader(codec, CONFIG, folder, folder / "run", folder / "adapter")
    assert codec.folder is not None
    extend_codec(codec.folder, folder / "codec", reader=folder / "adapter")
    return LatentCodec.load(folder / "codec")


def test_training_runs_and_a_resumed_run_repeats_its_losses(codec: LatentCodec, tmp_path: Path) -> None:
    def losses(run: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]

    train_reader(codec, CONFIG, tmp_path, tmp_path / "whole", tmp_path / "a")
    train_reader(
        codec, replace(CONFIG, decay_share=0.0, steps=2), tmp_path, tmp_path / "other", tmp_path / "b"
    )
    assert len(losses(tmp_path / "whole")) == 4
    (tmp_path / "whole" / "checkpoint-4").rename(tmp_path / "whole" / "checkpoint-0")
    assert losses(tmp_path / "other")[0] == pytest.approx(losses(tmp_path / "whole")[0], rel=1e-5)


def test_labels_stand_on_the_answer_and_positions_leave_room_for_the_tokens(codec: LatentCodec) -> None:
    memory, question, answer = [5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [30, 31]
    examples = [Example([memory], question, answer, as_text) for as_text in (False, True)]
    embeddings, mask, positions, labels = batch_of(codec, examples)
    ratio = codec.config.tokens_per_latent
    assert ratio is not None
    latents = -(-len(memory) // ratio)
    end = codec.config.end_of_text
    assert labels[0][labels[0] != -100].tolist() == labels[1][labels[1] != -100].tolist() == [30, 31, end]
    # Two latents, two tokens of the question, [SoD], the answer but its last.
    assert mask.sum(1).tolist() == [latents + 2 + 1 + 2, len(memory) + 2 + 1 + 2]
    assert positions[0][:latents].tolist() == [ratio * j for j in range(latents)]
    assert positions[0][latents] == ratio * latents
    torch.testing.assert_close(embeddings[1, : len(memory)], codec.decoder.embed(torch.tensor(memory)))
    prompt = reader_prompt(codec.config, [memory], question)
    assert prompt_positions(codec.config, prompt).tolist() == list(range(len(memory) + 3))


def test_the_right_memory_is_always_there(codec: LatentCodec, tmp_path: Path) -> None:
    examples = Examples(codec, replace(CONFIG, most_memories=3, most_tokens=200), tmp_path, tmp_path)
    rng = np.random.default_rng(0)
    drawn = [examples.draw(rng) for _ in range(60)]
    assert {len(e.memories) for e in drawn} == {1, 2, 3}
    assert {e.as_text for e in drawn} == {True, False}
    for example in drawn:
        answer = codec.tokenizer.to_bytes(example.answer).strip()
        assert any(answer in codec.tokenizer.to_bytes(memory) for memory in example.memories)


def test_only_the_reader_changes(codec: LatentCodec, reading: LatentCodec) -> None:
    latents, same = codec.encode(tiny.TEXTS[:2]), reading.encode(tiny.TEXTS[:2])
    assert torch.equal(latents.values, same.values)
    assert codec.decode(latents) == reading.decode(same)
    assert reading.can_answer
    assert not codec.can_answer
    assert reading.fingerprint != codec.fingerprint
    with pytest.raises(CannotAnswer):
        codec.answer(latents, ["Who?", "Where?"])
    assert len(reading.answer(same, ["Who?", "Where?"], max_new_tokens=3)) == 2


def test_every_way_of_asking_is_measured(codec: LatentCodec, reading: LatentCodec) -> None:
    rows = evaluate(reading, [*held_out_facts(3, 2), Asked(["Ann has a cat."], "What has Ann?", ["a cat"])])
    assert [row.memory for row in rows] == ["text", "decompressed", "injected", "none", "another's", "chance"]
    assert all(0 <= row.exact <= row.f1 <= 1 for row in rows)
    text, _, injected, none, *_ = rows
    assert injected.positions < text.positions
    assert none.positions == 0
    with pytest.raises(CannotAnswer, match="train span-reader"):
        evaluate(codec, held_out_facts(1, 1))
    with pytest.raises(DataError):
        evaluate(reading, [])


def test_a_memory_answers_by_injection(reading: LatentCodec) -> None:
    with NextMem.open(":memory:", codec=reading) as memory:
        scope = memory.scope("alice")
        scope.remember("Ann has a cat.")
        reply = scope.answer("What has Ann?")
        assert reply.mode in ("inject", "decompress")
