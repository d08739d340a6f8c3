"""Questions find their passages after training, and a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from nextmem_agents import CheckpointError, DataError, InvalidArgument, LatentCodec
from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.training import loop
from nextmem_agents.training.facts import facts
from nextmem_agents.training.matching import IndexHeadConfig, train_index_head
from nextmem_agents.training.pairs import MAX_QUESTION, MadeUpQuestions, Pairs, read_questions, write_pairs
from tests.codec import tiny
from tests.training.killing import killed_after_its_first_state

CONFIG = IndexHeadConfig(
    steps=12,
    batch_size=16,
    learning_rate=1e-2,
    warmup_steps=2,
    checkpoint_every=6,
    questions={"asked": 1.0},
    pairs=48,
    matched=16,
    pooled=16,
    width=32,
    named_tokens=64,
    pairs_after=0.0,
    term_size=16,
    index_size=16,
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("codec")
    tiny.write_whole(folder)
    return LatentCodec.load(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"context": f.statement, "question": f.question, "answers": [f.answer]} for f in facts(40, 1)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": f.statement}) for f in facts(60, 2)))
    return folder


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss_and_a_resumed_run_repeats_it(
    codec: LatentCodec, data: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, sources=("texts",))
    train_index_head(codec, config, data, tmp_path / "whole", compile_model=False)
    whole = losses(tmp_path / "whole")
    assert len(whole) == 12
    assert np.mean(whole[-3:]) < np.mean(whole[:3])

    with killed_after_its_first_state():
        train_index_head(codec, config, data, tmp_path / "killed", compile_model=False)
    assert len(losses(tmp_path / "killed")) == 6
    train_index_head(codec, config, data, tmp_path / "killed", compile_model=False)
    assert losses(tmp_path / "killed") == whole


def test_a_codec_whose_latents_have_no_fixed_tokens_learns_from_pairs_alone(
    data: Path, tmp_path: Path
) -> None:
    tiny.write_whole(tmp_path / "codec", tokens_per_latent=None, fixed_latents=3, positions="consecutive")
    free = LatentCodec.load(tmp_path / "codec")
    config = replace(CONFIG, sources=("texts",))
    with pytest.raises(InvalidArgument, match="named_tokens"):
        train_index_head(free, config, data, tmp_path / "refused")
    head = train_index_head(
        free, replace(config, named_tokens=0), data, tmp_path / "run", compile_model=False
    )
    found = losses(tmp_path / "run")
    assert np.mean(found[-3:]) < np.mean(found[:3])
    head.save(tmp_path)
    latents = free.encode(["Ann has a cat.", "The ferry leaves at nine."])
    again = IndexHead.load(tmp_path).pooled(latents.values, latents.lengths)
    torch.testing.assert_close(again, head.pooled(latents.values, latents.lengths), atol=0.02, rtol=0)


def test_a_pair_holds_its_answer_and_the_question_about_it(
    codec: LatentCodec, data: Path, tmp_path: Path
) -> None:
    tokenizer = codec.tokenizer.tokenizer
    write_pairs(tokenizer, data / "asked.jsonl", tmp_path / "asked.pairs.npz")
    pairs = Pairs(tmp_path / "asked.pairs.npz")
    known = {
        question: (context, answers[0]) for context, question, answers in read_questions(data / "asked.jsonl")
    }
    rng = np.random.default_rng(0)
    for _ in range(50):
        pair = pairs.draw(rng, 24)
        question, text, answer = pair.question, pair.text, pair.answer
        asked = codec.tokenizer.to_bytes(question.tolist()).decode()
        context, right = known[asked]
        assert right in codec.tokenizer.to_bytes(answer.tolist()).decode()
        assert codec.tokenizer.to_bytes(text.tolist()) in context.encode()
        assert len(text) <= 24
        assert 0 <= pair.begin < pair.end <= len(text)


def test_made_up_questions_are_short_and_of_the_passages_words() -> None:
    tokenizer: Tokenizer = LatentCodec.load("mini").tokenizer.tokenizer
    text = "We took the ferry to Skagen, and Oluf played the accordion all night."
    ids = np.array(tokenizer.encode(text).ids)
    counts = np.ones(tokenizer.get_vocab_size(), dtype=int) * 10
    made = MadeUpQuestions(tokenizer, counts)
    rng = np.random.default_rng(0)
    for _ in range(30):
        question = made.make(rng, ids)
        assert question is not None
        assert 1 <= len(question) <= MAX_QUESTION
        words = tokenizer.decode(question.tolist()).rstrip("?").split()
        assert any(word.strip(",.") in text for word in words)
    assert made.make(rng, ids[:1]) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"context": "a"}', "line 1"), ('{"context": "a", "question": "b", "answers": ["c"]}', "no question")],
)
def test_bad_question_files_are_clear_errors(
    codec: LatentCodec, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        write_pairs(codec.tokenizer.tokenizer, tmp_path / "q.jsonl", tmp_path / "q.npz")
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        list(read_questions(tmp_path / "missing.jsonl"))


def test_held_out_facts_share_no_name_and_no_open_value_with_training() -> None:
    seen = {fact.answer for fact in facts(4000, 1)}
    closed = ("January", "Monday", "sister", "coffee")
    unseen = {fact.answer for fact in facts(4000, 1, held_out=True)}
    shared = {answer for answer in seen & unseen if answer.istitle() and " " not in answer}
    months_and_days = {"January February March April May June July August September October November December",
                       "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"}  # fmt: skip
    assert shared <= {word for words in months_and_days for word in words.split()}
    assert all(word in seen for word in closed)


def test_a_run_of_another_codec_is_not_taken_over(codec: LatentCodec, data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, sources=("texts",), steps=1)
    train_index_head(codec, config, data, tmp_path / "run", compile_model=False)
    tiny.write_whole(tmp_path / "other", tokens_per_latent=4)
    other = LatentCodec.load(tmp_path / "other")
    changed = replace(config, named_tokens=0)
    with pytest.raises(CheckpointError, match="codec"):
        train_index_head(other, changed, data, tmp_path / "run", compile_model=False)


def test_token_ids_of_large_vocabularies_are_kept(tmp_path: Path) -> None:
    words = {"the": 0, "key": 70_000, "is": 151_000, "here": 3}
    tokenizer = Tokenizer(WordLevel(words, unk_token="the"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = Whitespace()
    row = {"context": "the key is here", "question": "the key", "answers": ["is here"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    write_pairs(tokenizer, tmp_path / "q.jsonl", tmp_path / "q.npz")
    pair = Pairs(tmp_path / "q.npz").draw(np.random.default_rng(0), 8)
    assert pair.text.tolist() == [0, 70_000, 151_000, 3]
    assert pair.answer.tolist() == [151_000, 3]


def test_small_modules_stay_on_the_cpu_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("accelerate.Accelerator", lambda **settings: asked.update(settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loop.accelerator(CONFIG, on_cpu=True)
    assert asked["cpu"]
    loop.accelerator(CONFIG)
    assert not asked["cpu"]
