"""From text files to token arrays, and from token arrays to training frames."""

from __future__ import annotations

import json
import lzma
import random
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nextmem_agents.codec import checkpoint, tokens
from nextmem_agents.errors import DataError
from nextmem_agents.text_files import open_text
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.held_out import ENDING, without_held_out, write_held_out
from nextmem_agents.training.synthetic import synthetic_texts

END_OF_TEXT, START_OF_DECODE, PAD = "<|end_of_text|>", "<|start_of_decode|>", "<|pad|>"
Array = np.ndarray[Any, Any]

SPECIAL_TOKENS = [END_OF_TEXT, START_OF_DECODE, PAD]
"""By token id: the trainer numbers them first."""

SYNTHETIC = "synthetic"
_SYNTHETIC_TEXTS = 200_000
_BATCH = 2000
_SPEAKER = re.compile(r"^[\w .'-]{1,30}: ")


def read_texts(path: Path) -> Iterator[str]:
    """All texts of :func:`read_records`, one after the other."""
    for record in read_records(path):
        yield from record


def read_records(path: Path) -> Iterator[list[str]]:
    """Records of a ``.jsonl``, ``.jsonl.xz``, ``.txt`` or ``.md`` file (paragraphs apart by an empty line).

    A JSON line gives its ``text``, or its ``question`` when it has no text; the turns of a dialogue follow in the same
    record as texts of their own, without the speaker's name.

    Raises:
        DataError: a missing file, another ending, or a line that has neither key.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        yield from _records(path)
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _records(path: Path) -> Iterator[list[str]]:
    if path.suffix in (".txt", ".md"):
        parts = (part.strip() for part in path.read_text(encoding="utf-8").split("\n\n"))
        yield from ([part] for part in parts if part)
        return
    if not path.name.endswith((".jsonl", ".jsonl.xz")):
        raise DataError(f"{path}: give .txt, .md, .jsonl or .jsonl.xz")
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                text = record["text"] if "text" in record else record["question"]
                if not isinstance(text, str):
                    raise TypeError
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f'{path}, line {number}: not a JSON object with "text" or "question"'
                ) from error
            turns = text.split("\n") if record.get("kind") == "dialogue" and "\n" in text else ()
            yield [text, *(_SPEAKER.sub("", turn) for turn in turns)]


def find_sources(data: Path, config: ScratchConfig) -> dict[str, Path]:
    """The file of each source that the configuration names.

    Raises:
        DataError: a source has no file in ``data``.
    """
    found = {}
    for name in config.sources:
        if name == SYNTHETIC:
            continue
        paths = [p for ending in (".jsonl.xz", ".jsonl", ".txt") if (p := data / f"{name}{ending}").is_file()]
        if not paths:
            raise DataError(f"{data} holds no {name}.jsonl.xz, {name}.jsonl or {name}.txt")
        found[name] = paths[0]
    return found


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with single digits: every text has tokens, and numbers stay legible to a small model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def prepare(data: Path, folder: Path, config: ScratchConfig) -> Tokenizer:
    """Train the tokenizer and write each source's tokens; what is already in ``folder`` is used as it is.

    Writes ``tokenizer.json`` (a copy of that of ``config.start_from``, if given) and, per source, ``NAME.npz``
    (``tokens`` uint16, ``offsets`` int64) and ``NAME.held_out.jsonl``, the texts that are not among them.
    """
    if not config.sources:
        raise DataError("no sources to train on: name files of the data folder and their weights in sources")
    paths = find_sources(data, config)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_file = folder / "tokenizer.json"
    if config.start_from and not tokenizer_file.exists():
        shutil.copyfile(checkpoint.find(config.start_from) / tokens.FILE, tokenizer_file)
    if not tokenizer_file.exists():
        rng = random.Random(config.seed)
        share = 0.2  # of the texts; merges are stable long before all of them

        def sample() -> Iterator[str]:
            for path in paths.values():
                texts = without_held_out(read_records(path), config.held_out)
                yield from (text for text in texts if rng.random() < share)
            yield from synthetic_texts(_SYNTHETIC_TEXTS // 20, config.seed)

        train_tokenizer(sample(), config.vocabulary).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    for name in config.sources:
        target = folder / f"{name}.npz"
        if target.exists():
            continue
        kept: list[str] = []
        texts = (
            synthetic_texts(_SYNTHETIC_TEXTS, config.seed + 1)
            if name == SYNTHETIC
            else without_held_out(read_records(paths[name]), config.held_out, kept)
        )
        pieces: list[Array] = []
        while batch := [*islice(texts, _BATCH)]:
            pieces += _encode(tokenizer, batch)
        if not pieces:
            raise DataError(f"source {name!r} has no text")
        write_held_out(folder / f"{name}.{ENDING}", kept)
        offsets = np.cumsum([0] + [len(piece) for piece in pieces])
        temporary = folder / f"{name}.partial.npz"
        np.savez(temporary, tokens=np.concatenate(pieces), offsets=offsets)
        temporary.replace(target)
    return tokenizer


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[Array]:
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(item.ids, dtype=np.uint16) for item in encoded if item.ids]


@dataclass(frozen=True)
class Frames:
    """What one process trains on in one step.

    Attributes:
        texts: per frame, texts (int64 token ids) that fill it exactly once padded to whole latents.
        tokens_per_latent: the density of this step, the same for every process.
    """

    texts: list[list[Array]]
    tokens_per_latent: int


class FrameSampler:
    """Draws frames: texts of every length from 1 token to a whole frame, from weighted sources.

    The frames of a step depend on (seed, step, rank) alone, so a resumed run sees what the killed one would.
    """

    def __init__(self, folder: Path, config: ScratchConfig):
        self.config = config
        self.names = list(config.sources)
        self.weights = _shares(config.sources.values())
        self.tokens, self.offsets = [], []
        for name in self.names:
            with np.load(folder / f"{name}.npz") as arrays:
                self.tokens.append(arrays["tokens"])
                self.offsets.append(arrays["offsets"])
        self.synthetic = self.names.index(SYNTHETIC) if SYNTHETIC in self.names else None

    def draw(self, step: int, rank: int, count: int) -> Frames:
        """``count`` frames of one step."""
        ratio = self.config.tokens_per_latent
        if self.config.densities:
            shared = np.random.default_rng((self.config.seed, step))
            ratio = int(shared.choice(list(self.config.densities), p=_shares(self.config.densities.values())))
        rng = np.random.default_rng((self.config.seed, step, rank))
        return Frames([self._frame(rng, ratio) for _ in range(count)], ratio)

    def _frame(self, rng: np.random.Generator, ratio: int) -> list[Array]:
        left = self.config.frame_tokens
        shorter = rng.random() < self.config.short_text_share
        texts = []
        while left:
            slots = left
            if shorter:
                # Log-uniform: as many texts around 16 tokens as around 64.
                slots = min(left, ratio * max(1, round(2 ** rng.uniform(0, np.log2(left / ratio)))))
            text = self._text(rng, int(rng.integers(slots - ratio + 1, slots + 1)))
            texts.append(text)
            left -= -(-len(text) // ratio) * ratio
        return texts

    def _crop(self, rng: np.random.Generator, source: int, length: int) -> Array:
        offsets = self.offsets[source]
        which = int(rng.integers(len(offsets) - 1))
        document = self.tokens[source][offsets[which] : offsets[which + 1]]
        # Half the texts begin where a document does, as messages and first chunks do.
        spare = max(0, len(document) - length)
        begin = 0 if rng.random() < 0.5 else int(rng.integers(spare + 1))
        text: Array = document[begin : begin + length].astype(np.int64)
        return text

    def _text(self, rng: np.random.Generator, length: int) -> Array:
        text = self._crop(rng, int(rng.choice(len(self.names), p=self.weights)), length)
        if rng.random() < self.config.random_span_share:
            n = int(rng.integers(1, len(text) + 1))
            if self.synthetic is None or rng.random() < 0.5:
                span = rng.integers(len(SPECIAL_TOKENS), self.config.vocabulary, n)
            else:
                span = self._crop(rng, self.synthetic, n)
            at = int(rng.integers(len(text) - len(span) + 1))
            text[at : at + len(span)] = span
        return text


def _shares(weights: Iterable[float]) -> Array:
    values = np.array(list(weights), dtype=float)
    shares: Array = values / values.sum()
    return shares
