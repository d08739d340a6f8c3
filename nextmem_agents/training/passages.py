"""Texts as token arrays on disk, and the passages that are drawn from them.

    tokens.npy      int32, all documents behind each other
    offsets.npy     int64, where each begins, and the end
    held_out.jsonl  documents that are never trained on

Arrays are mapped, not read: a corpus may be larger than memory, and several processes share its pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import DataError
from nextmem_agents.training.corpus import read_records
from nextmem_agents.training.held_out import ENDING, without_held_out, write_held_out
from nextmem_agents.training.run_state import writing

Array = np.ndarray[Any, Any]
ENDINGS = (".jsonl.xz", ".jsonl", ".txt")
_BATCH = 1000


def find_texts(data: Path, sources: Iterable[str] = ()) -> list[Path]:
    """A text file, or those of a folder: all, or the ones that ``sources`` names without their ending.

    Raises:
        DataError: there are none, a named one is missing, or two differ in their ending alone.
    """
    if data.is_file():
        return [data]
    files = {
        path.name[: -len(ending)]: path
        for ending in reversed(ENDINGS)
        for path in sorted(data.glob(f"*{ending}"))
        if path.is_file()
    }
    names = list(sources) or sorted(files)
    for name in names:
        alike = [ending for ending in ENDINGS if (data / f"{name}{ending}").is_file()]
        if len(alike) > 1:
            raise DataError(f"{data} holds {' and '.join(f'{name}{e}' for e in alike)}; only one can be read")
    if missing := [name for name in names if name not in files]:
        raise DataError(f"{data} holds no {missing[0]}.jsonl.xz, {missing[0]}.jsonl or {missing[0]}.txt")
    if not names:
        raise DataError(
            f"{data} holds no text files; give a .txt, .jsonl or .jsonl.xz file, or a folder of them"
        )
    return [files[name] for name in names]


def prepare(paths: Iterable[Path], folder: Path, tokenizer: CodecTokenizer, held_out: float) -> None:
    """Tokenise once; what is already in ``folder`` is used as it is.

    Raises:
        DataError: a file is missing, malformed, or has no text to train on.
        CheckpointError: the folder cannot be written.
    """
    if (folder / "offsets.npy").is_file():
        return
    kept: list[str] = []
    pieces: list[Array] = []
    for path in paths:
        before = len(pieces)
        texts = without_held_out(read_records(path), held_out, kept)
        while batch := [*islice(texts, _BATCH)]:
            pieces += [np.array(ids, dtype=np.int32) for ids in tokenizer.encode(batch) if ids]
        if len(pieces) == before:
            raise DataError(f"{path} has no text to train on")
    offsets = np.cumsum([0] + [len(piece) for piece in pieces])
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tokens.npy", np.concatenate(pieces))
        write_held_out(folder / ENDING, kept)
        # Last: it says that the rest is whole.
        np.save(folder / "offsets.partial.npy", offsets)
        (folder / "offsets.partial.npy").replace(folder / "offsets.npy")


class Passages:
    """Draws training rows from a prepared corpus."""

    def __init__(self, folder: Path):
        self.tokens: Array = np.load(folder / "tokens.npy", mmap_mode="r")
        self.offsets: Array = np.load(folder / "offsets.npy")

    def passage(self, rng: np.random.Generator, shortest: int, longest: int) -> Array:
        """A stretch of one document, its length uniform between the two as far as the document goes: int64 [T]."""
        place = int(rng.integers(len(self.tokens)))
        document = int(np.searchsorted(self.offsets, place, side="right")) - 1
        begin, end = int(self.offsets[document]), int(self.offsets[document + 1])
        length = int(rng.integers(shortest, longest + 1))
        # A document is entered at its beginning more often than anywhere else, as a memory's text is.
        begin = max(begin, min(place, end - length))
        return self.tokens[begin : min(begin + length, end)].astype(np.int64)

    def window(self, rng: np.random.Generator, length: int, end_of_text: int, repeated: float = 0.0) -> Array:
        """Whole documents behind each other, each closed by the end token, cut to ``length``: int64 [length].

        With probability ``repeated`` the window holds one passage over and over instead.
        """
        if rng.random() < repeated:
            passage = np.append(self.passage(rng, max(1, length // 8), length // 2), end_of_text)
            row = np.tile(passage, -(-length // len(passage)))
            begin = int(rng.integers(len(row) - length + 1))
            return row[begin : begin + length]
        place = int(rng.integers(len(self.tokens)))
        document = int(np.searchsorted(self.offsets, place, side="right")) - 1
        parts: list[Array] = [self.tokens[place : self.offsets[document + 1]]]
        size = len(parts[0]) + 1
        while size < length:
            document = (document + 1) % (len(self.offsets) - 1)
            parts.append(self.tokens[self.offsets[document] : self.offsets[document + 1]])
            size += len(parts[-1]) + 1
        return np.concatenate([np.append(part, end_of_text) for part in parts])[:length].astype(np.int64)
