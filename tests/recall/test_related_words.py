"""Words of like meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nextmem_agents.errors import CheckpointError
from nextmem_agents.recall.lexical import terms
from nextmem_agents.recall.related_words import (
    LEAST,
    load_related_words,
    packaged_related_words,
    save_related_words,
)

WORDS = ["dog", "puppi", "ship", "boat"]
VECTORS = np.array([[1, 0.1, 0], [1, 0.2, 0.1], [0, 1, 0], [0, 1, 0.5]], np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_related_words(tmp_path / "words.safetensors", WORDS, VECTORS)
    return tmp_path / "words.safetensors"


def test_the_nearest_words_come_first_with_their_cosines(path: Path) -> None:
    read = load_related_words(path)
    [(word, cosine)] = read.to("dog")
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    assert word == "puppi"
    assert cosine == pytest.approx(float(unit[0] @ unit[1]), abs=1 / 255)
    assert [word for word, _ in read.to("ship")] == ["boat"]
    assert read.to("unheard") == []
    assert read.to("dog", 0.999) == []


def test_a_damaged_file_is_refused(path: Path, tmp_path: Path) -> None:
    tensors = load_file(path)
    tensors["cosines"] = tensors["cosines"] + np.uint8(1)
    save_file(tensors, path, {"format": "1", "fingerprint": load_related_words_fingerprint(path)})
    with pytest.raises(CheckpointError, match="damaged"):
        load_related_words(path)
    (tmp_path / "text").write_text("no tensors")
    for other in (tmp_path / "text", tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="no related words"):
            load_related_words(other)


def load_related_words_fingerprint(path: Path) -> str:
    return load_related_words(path).fingerprint


def test_a_newer_format_is_refused(path: Path) -> None:
    save_file(load_file(path), path, {"format": "2", "fingerprint": ""})
    with pytest.raises(CheckpointError, match="format '2'"):
        load_related_words(path)


def test_the_packaged_words_know_what_people_talk_about() -> None:
    packaged = packaged_related_words()
    assert len(packaged.words) > 10_000
    for asked, near in (("dog", "labrador"), ("hike", "trail"), ("music", "concert"), ("cook", "recipe")):
        [term], [expected] = terms(asked), terms(near)
        found = packaged.to(term)
        assert expected in [word for word, _ in found]
        assert all(LEAST - 0.01 <= cosine <= 1 for _, cosine in found)
        assert term not in [word for word, _ in found]
