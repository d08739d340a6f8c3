"""Questions and the passages that answer them, as token arrays: what the contrastive term and the reader learn from.

Real pairs come from question-answering files; others are made up: the rarer words of a passage, behind a question
word. They teach search in text for which nobody has written questions (dialogue above all).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from nextmem_agents.errors import DataError
from nextmem_agents.text_files import open_text

Array = np.ndarray[Any, Any]

MAX_QUESTION = 24
"""Tokens of a question; longer ones are left out."""

_OPENINGS = (
    "What", "What did", "What does", "What is", "What kind of", "When did", "When", "Where did", "Where is", "Who",
    "Why did", "How did", "How many", "How long", "Which", "Did", "Does", "Is", "Tell me about",
)  # fmt: skip
_NAMES = (
    "Anna", "Ben", "Carla", "Caroline", "Daniel", "Elena", "Farid", "George", "Hannah", "Ivan", "James", "Joanna",
    "Kim", "Laura", "Maria", "Nate", "Omar", "Paula", "Quinn", "Rosa", "Sam", "Tina", "Uma", "Victor", "Wendy", "Yusuf",
)  # fmt: skip


def read_questions(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(context, question, answers) of each line of a question-answering file (``.jsonl`` or ``.jsonl.xz``).

    Raises:
        DataError: a missing file, or a line without these keys.
    """
    if not path.is_file():
        raise DataError(f"no question file {path}")
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                yield record["context"], record["question"], list(record["answers"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f'{path}, line {number}: not a JSON object with "context", "question" and "answers"'
                ) from error


def find_questions(data: Path, name: str) -> Path:
    """The question-answering file of this name in a folder.

    Raises:
        DataError: there is none.
    """
    for path in (data / f"{name}.jsonl.xz", data / f"{name}.jsonl"):
        if path.is_file():
            return path
    raise DataError(f"{data} holds no {name}.jsonl.xz or {name}.jsonl")


def write_pairs(tokenizer: Tokenizer, path: Path, target: Path) -> None:
    """Tokenise a question file into ``target`` (``.npz``); questions whose answer is not in their context stay out.

    Arrays: ``contexts``, ``questions`` (int32) with their offsets, and per question its context's number and the
    first and one past the last token of its answer there.

    Raises:
        DataError: no usable question.
    """
    contexts: dict[str, int] = {}
    questions: list[str] = []
    rows: list[tuple[int, int, int]] = []  # context, first and one past the last character of the answer
    for context, question, answers in read_questions(path):
        begin, answer = next(((at, a) for a in answers if a and (at := context.find(a)) >= 0), (-1, ""))
        if begin >= 0 and question:
            rows.append((contexts.setdefault(context, len(contexts)), begin, begin + len(answer)))
            questions.append(question)
    if not rows:
        raise DataError(f"{path} holds no question whose answer is in its context")
    encoded = tokenizer.encode_batch(list(contexts), add_special_tokens=False)
    spans = [np.array(item.offsets) for item in encoded]
    found = np.array(
        [
            (
                which,
                np.searchsorted(spans[which][:, 1], begin, "right"),
                np.searchsorted(spans[which][:, 0], end, "left"),
            )
            for which, begin, end in rows
        ]
    )
    asked = [item.ids for item in tokenizer.encode_batch_fast(questions, add_special_tokens=False)]
    keep = np.array([len(ids) <= MAX_QUESTION for ids in asked])
    partial = target.with_name(f"{target.stem}.partial.npz")
    np.savez(
        partial,
        contexts=np.concatenate([np.array(item.ids, dtype=np.int32) for item in encoded]),
        context_offsets=np.cumsum([0] + [len(item.ids) for item in encoded]),
        questions=np.concatenate(
            [np.array(ids, dtype=np.int32) for ids, k in zip(asked, keep, strict=True) if k]
        ),
        question_offsets=np.cumsum([0] + [len(ids) for ids, k in zip(asked, keep, strict=True) if k]),
        answers=found[keep],
    )
    partial.replace(target)


@dataclass(frozen=True)
class Pair:
    """Token ids of a question and of a text, and the first and one past the last token of the answer there."""

    question: Array
    text: Array
    begin: int
    end: int

    @property
    def answer(self) -> Array:
        """The answer's token ids."""
        return self.text[self.begin : self.end]


class Pairs:
    """The questions of one file, drawn at random."""

    def __init__(self, path: Path):
        """Read what :func:`write_pairs` wrote."""
        with np.load(path) as arrays:
            self._contexts, self._context_offsets = arrays["contexts"], arrays["context_offsets"]
            self._questions, self._question_offsets = arrays["questions"], arrays["question_offsets"]
            self._answers = arrays["answers"]

    def __len__(self) -> int:
        return len(self._answers)

    def draw(self, rng: np.random.Generator, length: int) -> Pair:
        """A question and a stretch of at most ``length`` tokens of its context, around the answer.

        A longer answer is cut at the end of the stretch.
        """
        which = int(rng.integers(len(self)))
        context, begin, end = self._answers[which]
        text = self._contexts[self._context_offsets[context] : self._context_offsets[context + 1]].astype(
            np.int64
        )
        low, high = max(0, int(end) - length), min(int(begin), max(0, len(text) - length))
        first = int(rng.integers(min(low, high), max(low, high) + 1))
        question = self._questions[self._question_offsets[which] : self._question_offsets[which + 1]]
        stretch = text[first : first + length]
        return Pair(
            question.astype(np.int64), stretch, int(begin) - first, min(int(end) - first, len(stretch))
        )


class MadeUpQuestions:
    """Questions made of a passage's rarer words."""

    def __init__(self, tokenizer: Tokenizer, counts: Array):
        """``counts``: how often each token occurs in the corpus, int [V]."""
        words = [tokenizer.id_to_token(i) or "" for i in range(len(counts))]
        self._starts = np.array([word.startswith("Ġ") for word in words])
        self._wordlike = np.array([word.lstrip("Ġ").isalnum() for word in words])
        self._rarity = np.log(counts.sum() / (counts + 1.0))
        self._openings = [np.array(tokenizer.encode(o).ids) for o in _OPENINGS]
        self._names = [np.array(tokenizer.encode(" " + name).ids) for name in _NAMES]
        self._mark = np.array(tokenizer.encode("?").ids)

    def make(self, rng: np.random.Generator, text: Array) -> Array | None:
        """A question about ``text`` (token ids) of at most MAX_QUESTION tokens; None where it has too few words."""
        cuts = np.flatnonzero(self._starts[text])
        words = [word for word in np.split(text, cuts) if len(word) and self._wordlike[word].any()]
        if len(words) < 2:
            return None
        rarity = np.array([self._rarity[word[self._wordlike[word]]].max() for word in words])
        weight = np.clip(rarity - 4.0, 0.05, None) ** 2  # words as frequent as "the" hardly ever
        n = int(rng.integers(1, min(6, len(words)) + 1))
        chosen = rng.choice(len(words), size=n, replace=False, p=weight / weight.sum())
        if rng.random() < 0.7:
            chosen = np.sort(chosen)
        parts = [word[self._wordlike[word]] for word in (words[i] for i in chosen)]
        if rng.random() < 0.5:
            parts.insert(0, self._names[int(rng.integers(len(self._names)))])
        if rng.random() < 0.8:
            parts.insert(0, self._openings[int(rng.integers(len(self._openings)))])
            parts.append(self._mark)
        return np.concatenate(parts)[:MAX_QUESTION]
