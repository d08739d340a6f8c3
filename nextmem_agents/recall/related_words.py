"""Words of like meaning, which a question finds though it does not hold them.

They ship with the package: for each index term the nearest others by the vectors that ``nextmem train word-vectors``
learns, nearest first. The vectors themselves are not needed to look them up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import CheckpointError

FORMAT = "1"
PACKAGED = "related_words.safetensors"
MOST, LEAST = 32, 0.35
"""How many words are kept for each, and the cosine under which none is."""


@dataclass(frozen=True, eq=False)
class RelatedWords:
    """For V index terms (:func:`nextmem_agents.recall.lexical.terms`) the words related to each, nearest first.

    Attributes:
        words: the terms.
        offsets: ``[V + 1]`` int64; the words related to word i stand from ``offsets[i]`` up to ``offsets[i + 1]``.
        related: their numbers.
        cosines: uint8, in 255ths.
        fingerprint: of all of it, 16 hexadecimal digits.
    """

    words: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    related: npt.NDArray[np.uint16]
    cosines: npt.NDArray[np.uint8]
    fingerprint: str

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def to(self, term: str, least: float = LEAST) -> list[tuple[str, float]]:
        """The words related to a term with their cosines, at least ``least``, nearest first; none of an unknown one."""
        number = self._numbers.get(term)
        if number is None:
            return []
        part = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        found = zip(self.related[part].tolist(), (self.cosines[part] / 255).tolist(), strict=True)
        return [(self.words[i], cosine) for i, cosine in found if cosine >= least]


def save_related_words(
    path: str | PathLike[str], words: Sequence[str], vectors: npt.NDArray[np.floating[Any]]
) -> str:
    """Write which words are nearest to each by their vectors ``[V, D]``; returns the fingerprint.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    counts, related, cosines = [0], [], []
    for number, row in enumerate(unit):
        near = unit @ row
        near[number] = -1.0
        close = np.flatnonzero(near >= LEAST)
        best = close[np.argsort(-near[close], kind="stable")[:MOST]]
        counts.append(len(best))
        related.append(best)
        cosines.append(near[best])
    tensors: dict[str, npt.NDArray[Any]] = {
        "words": np.frombuffer("\n".join(words).encode(), dtype=np.uint8).copy(),
        "offsets": np.cumsum(counts).astype(np.int32),
        "related": np.concatenate(related).astype(np.uint16),
        "cosines": np.round(255 * np.concatenate(cosines).clip(0, 1)).astype(np.uint8),
    }
    fingerprint = _fingerprint(tensors)
    try:
        save_file(
            tensors,
            path,
            {"format": FORMAT, "fingerprint": fingerprint, "terms": "NFKC, case-folded, Snowball english"},
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error
    return fingerprint


def load_related_words(path: str | PathLike[str]) -> RelatedWords:
    """Read what :func:`save_related_words` wrote.

    Raises:
        CheckpointError: the file is missing, damaged or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("words", "offsets", "related", "cosines")}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no related words that can be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {metadata.get('format')!r}; this version reads {FORMAT!r}"
        )
    if _fingerprint(tensors) != metadata.get("fingerprint"):
        raise CheckpointError(f"{path} is damaged: its fingerprint does not fit; install the package anew")
    return RelatedWords(
        tuple(tensors["words"].tobytes().decode().split("\n")),
        tensors["offsets"].astype(np.int64),
        tensors["related"],
        tensors["cosines"],
        metadata["fingerprint"],
    )


def _fingerprint(tensors: dict[str, npt.NDArray[Any]]) -> str:
    data = b"".join(tensors[name].tobytes() for name in sorted(tensors))
    return blake2b(data, digest_size=8, person=b"nextmem words").hexdigest()


_guard = threading.Lock()
_loaded: list[RelatedWords] = []


def packaged_related_words() -> RelatedWords:
    """Those that ship with the package, read when they are first needed."""
    with _guard:
        if not _loaded:
            with resources.as_file(resources.files("nextmem_agents.recall") / PACKAGED) as path:
                _loaded.append(load_related_words(Path(path)))
        return _loaded[0]
