"""A span reader learns to find answers, from latents and from text, and a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nextmem_agents import CannotAnswer, InvalidArgument, LatentCodec
from nextmem_agents.training.export import extend_codec
from nextmem_agents.training.facts import facts
from nextmem_agents.training.matching import IndexHeadConfig, train_index_head
from nextmem_agents.training.span_reading import SpanReaderConfig, _draw_examples, train_span_reader
from tests.codec import tiny
from tests.training.killing import killed_after_its_first_state

CONFIG = SpanReaderConfig(
    steps=30,
    batch_size=16,
    warmup_steps=2,
    checkpoint_every=15,
    questions={"asked": 1.0},
    examples=64,
    width=32,
    blocks=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [{"context": f.statement, "question": f.question, "answers": [f.answer]} for f in facts(40, 1)]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": f.statement}) for f in facts(60, 2)))
    return folder


@pytest.fixture(scope="module")
def codec(data: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("codec")
    tiny.write_whole(folder / "whole")
    whole = LatentCodec.load(folder / "whole")
    ratio = whole.config.tokens_per_latent
    assert ratio is not None
    settings = IndexHeadConfig(
        steps=8, batch_size=16, matched=8, questions={"asked": 1.0}, pairs=32, term_size=16, index_size=16, width=32,
        terms_per_latent=ratio, named_tokens=64, sources=("texts",),
    )  # fmt: skip
    head = train_index_head(whole, settings, data, folder / "run", compile_model=False)
    extend_codec(folder / "whole", folder / "headed", head=head)
    return LatentCodec.load(folder / "headed")


def rows(run: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run / "log.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss_and_a_resumed_run_repeats_it(
    codec: LatentCodec, data: Path, tmp_path: Path
) -> None:
    train_span_reader(codec, CONFIG, data, tmp_path / "whole")
    whole = rows(tmp_path / "whole", "loss")
    assert len(whole) == 30
    assert sum(whole[-5:]) < sum(whole[:5])
    with killed_after_its_first_state():
        train_span_reader(codec, CONFIG, data, tmp_path / "killed")
    assert len(rows(tmp_path / "killed", "loss")) == 15
    train_span_reader(codec, CONFIG, data, tmp_path / "killed")
    assert rows(tmp_path / "killed", "loss") == whole


def test_every_example_marks_its_answer(codec: LatentCodec, data: Path, tmp_path: Path) -> None:
    known = {fact.question: fact.answer for n in (40, 60, 64) for fact in facts(n, CONFIG.seed)} | {
        fact.question: fact.answer for fact in facts(40, 1)
    }
    examples = _draw_examples(codec, CONFIG, data, tmp_path)
    assert len(examples) == 64
    for example in examples:
        question = codec.tokenizer.to_bytes(example.question).decode()
        marked = codec.tokenizer.to_bytes(example.memory[example.begin : example.end]).decode()
        assert known[question] in marked
        assert len(marked) <= len(known[question]) + 4


def test_what_it_cannot_be_trained_on_is_refused(codec: LatentCodec, data: Path, tmp_path: Path) -> None:
    tiny.write_whole(tmp_path / "whole")
    with pytest.raises(CannotAnswer, match="index-head"):
        train_span_reader(LatentCodec.load(tmp_path / "whole"), CONFIG, data, tmp_path / "run")
    with pytest.raises(InvalidArgument, match="longest"):
        train_span_reader(codec, replace(CONFIG, longest=10_000), data, tmp_path / "run")
