"""The span reader gives a stretch of one of its memories, whatever stands beside it, and is kept with its codec."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nextmem_agents import CannotAnswer, CheckpointError, InvalidArgument, LatentCodec, NextMem, TextTooLong
from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.codec.span_reader import FILE, MAX_ANSWER, SpanReader, best_span, mark_answer
from nextmem_agents.training.export import extend_codec
from tests.codec import tiny


@pytest.fixture(scope="module")
def head() -> IndexHead:
    torch.manual_seed(0)
    return IndexHead(64, 8, 16, 24, 128, vocabulary=448)


@pytest.fixture(scope="module")
def reader() -> SpanReader:
    torch.manual_seed(1)
    return SpanReader(16, 32, 2).eval()


@pytest.fixture(scope="module")
def plain(head: IndexHead, tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("plain")
    tiny.write_whole(folder / "whole")
    extend_codec(folder / "whole", folder / "headed", head=head)
    return LatentCodec.load(folder / "headed")


@pytest.fixture(scope="module")
def reading(plain: LatentCodec, reader: SpanReader, tmp_path_factory: pytest.TempPathFactory) -> LatentCodec:
    folder = tmp_path_factory.mktemp("reading")
    assert plain.folder is not None
    extend_codec(plain.folder, folder / "codec", span_reader=reader)
    return LatentCodec.load(folder / "codec")


def test_logits_do_not_depend_on_padding_or_on_the_other_rows(reader: SpanReader) -> None:
    torch.manual_seed(2)
    question, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    asked, there = torch.arange(5) < torch.tensor([[5], [3]]), torch.arange(9) < torch.tensor([[9], [4]])
    begin, end = reader(question, asked, memory, there)
    alone = reader(question[1:, :3], asked[1:, :3], memory[1:, :4], there[1:, :4])
    torch.testing.assert_close(begin[1, :4], alone[0][0])
    torch.testing.assert_close(end[1, :4], alone[1][0])
    assert (begin[1, 4:] == -torch.inf).all()
    assert (end[1, 4:] == -torch.inf).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 10_000))
def test_the_best_span_is_the_best_of_all_spans(rows: int, slots: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    begin, end = torch.randn(2, rows, slots, generator=generator)
    row, first, last = best_span(begin, end)
    every = [
        float(begin[r, a] + end[r, b])
        for r in range(rows)
        for a in range(slots)
        for b in range(a, min(slots, a + MAX_ANSWER))
    ]
    assert 0 < last - first <= MAX_ANSWER
    assert float(begin[row, first] + end[row, last - 1]) == pytest.approx(max(every))


def test_the_answer_is_a_stretch_of_a_memory_and_the_empty_memory_has_none(
    reader: SpanReader, head: IndexHead
) -> None:
    memories = [[5, 6, 7, 8], [9, 10, 11]]
    mark = mark_answer(reader, head, [1, 2, 3], [[], *memories])
    assert mark is not None
    which, first, last = mark
    assert 0 <= first < last <= len([[], *memories][which])
    assert mark_answer(reader, head, [1, 2], []) is None
    assert mark_answer(reader, head, [1, 2], [[]]) is None


def test_latents_are_read_as_the_tokens_that_the_head_names(reader: SpanReader, head: IndexHead) -> None:
    latents = torch.randn(3, 64)
    terms = head.of_text(latents)
    named, certainty = head.named_tokens(terms)
    assert named.shape == certainty.shape == (24,)
    assert ((certainty > 0) & (certainty <= 1)).all()
    cosine = F.normalize(terms, dim=-1) @ F.normalize(head.tokens, dim=-1).T
    assert torch.equal(named, cosine.argmax(-1))
    mark = mark_answer(reader, head, [4, 5], [latents])
    assert mark is not None
    assert 0 <= mark[1] < mark[2] <= 24


def test_a_codec_with_a_span_reader_answers_and_keeps_its_fingerprint(
    plain: LatentCodec, reading: LatentCodec
) -> None:
    assert reading.fingerprint == plain.fingerprint
    assert reading.can_answer
    assert reading.reads_bare
    assert not plain.can_answer
    latents = reading.encode(tiny.TEXTS[:2])
    assert len(reading.answer(latents, ["Who?", "Where?"])) == 2
    with pytest.raises(CannotAnswer, match="no reader"):
        plain.read([[]], ["Who?"])
    assert reading.read([[]], ["Who?"]) == [""]
    # A stretch of latents reads as the decoder reads it.
    values = latents.values[0, : latents.lengths[0]]
    [answer] = reading.read([[values]], ["Who?"])
    assert answer in reading.decode(reading.encode(tiny.TEXTS[:1]))[0]
    with pytest.raises(InvalidArgument):
        reading.read([[]], "Who?")
    with pytest.raises(TextTooLong):
        reading.read([[]], ["who " * 200])


def test_answers_come_from_latents_or_text_as_asked(reading: LatentCodec) -> None:
    with NextMem.open(":memory:", codec=reading) as memory:
        scope = memory.scope("alice")
        scope.remember("Ann has a cat.")
        scope.remember("Ben has a dog.")
        injected = scope.answer("What has Ann?", mode="inject")
        assert (injected.mode, injected.reader) == ("inject", "codec")
        assert scope.answer("What has Ann?").reader in ("extract", "codec")


def test_a_damaged_file_is_a_clear_error(reader: SpanReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    found = SpanReader.load(tmp_path)
    assert found.embed[0].weight.shape == reader.embed[0].weight.shape
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="span reader"):
        SpanReader.load(tmp_path)
