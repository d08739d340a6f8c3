"""Frames are drawn by step and rank alone, and are always exactly full."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from nextmem_agents import DataError
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.corpus import FrameSampler, prepare, read_records, read_texts


def test_frames_are_full_reproducible_and_different_by_rank(
    settings: ScratchConfig, data: Path, tmp_path: Path
) -> None:
    prepare(data, tmp_path / "corpus", settings)
    sampler = FrameSampler(tmp_path / "corpus", settings)
    frames = sampler.draw(3, 0, 50).texts
    for frame in frames:
        assert (
            sum(-(-len(text) // settings.tokens_per_latent) for text in frame) * settings.tokens_per_latent
            == 32
        )
    again = FrameSampler(tmp_path / "corpus", settings).draw(3, 0, 50).texts
    assert all(
        np.array_equal(a, b) for x, y in zip(frames, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    other = sampler.draw(3, 1, 50).texts
    assert [list(map(len, frame)) for frame in frames] != [list(map(len, frame)) for frame in other]
    lengths = {len(text) for frame in frames for text in frame}
    assert min(lengths) <= 4
    assert max(lengths) > 24


def test_a_dialogue_gives_its_turns_as_texts_too(data: Path) -> None:
    texts = list(read_texts(data / "talk.jsonl"))
    assert texts[:3] == [
        "Ann: Hello 0!\nBob: Good to see you, shall we sail?",
        "Hello 0!",
        "Good to see you, shall we sail?",
    ]


def test_plain_text_is_split_at_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\nstill one\n\n\n\ntwo\n")
    assert list(read_texts(tmp_path / "a.txt")) == ["one\nstill one", "two"]


@pytest.mark.parametrize("name", ["missing.jsonl", "there.pdf"])
def test_a_missing_or_unknown_file_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "there.pdf").write_text("x")
    with pytest.raises(DataError, match=name):
        list(read_texts(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.jsonl.xz", lzma.compress(b'{"text": "x"}\n' * 999)[:-40]),
        ("latin.txt", b"caf\xe9"),
        ("none.jsonl", b'{"text": null}'),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        list(read_records(tmp_path / name))
