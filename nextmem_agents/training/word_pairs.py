"""Pairs of texts that belong together, as index terms: what word vectors learn from.

Three kinds: a question and the sentence that answers it; a sentence or turn and one near it in the same text; the two
halves of one sentence, its words dealt out at random (of the whole text, where a sentence has but a few words).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nextmem_agents.errors import DataError
from nextmem_agents.recall.lexical import words
from nextmem_agents.training.corpus import read_texts
from nextmem_agents.training.pairs import find_questions, read_questions
from nextmem_agents.training.passages import find_texts
from nextmem_agents.training.run_state import writing

Array = np.ndarray[Any, Any]

_SENTENCE = re.compile(r"(?<=[.!?])[\"”')]*\s+(?=[A-Z\"“'(0-9])|\n")
_SPEAKER = re.compile(r"^[\w .'-]{1,30}: ")
_SHORTEST, _LONGEST = 4, 40  # terms of a part that is halved, and of one side
_RAREST = 5  # a word that occurs less often has no vector


def prepare_words(
    data: Path, sources: Mapping[str, float], questions: Iterable[str], limit: int, folder: Path
) -> None:
    """Read texts and questions once into ``folder``; what is already there is used as it is.

    Args:
        data: folder of text files.
        sources: names of files → how often their sentences are drawn.
        questions: names of question-answering files.
        limit: how many words get a vector, the most frequent ones.
        folder: receives ``words.json`` and ``pairs.npz``.

    Raises:
        DataError: a file is missing, malformed or empty.
        CheckpointError: the folder cannot be written.
    """
    if (folder / "pairs.npz").is_file():
        return
    texts = [
        (weight, [found for part in _SENTENCE.split(text) if (found := words(_SPEAKER.sub("", part)))])
        for name, weight in sources.items()
        for text in read_texts(find_texts(data, [name])[0])
    ]
    asked = [pair for name in questions for pair in _answered(read_questions(find_questions(data, name)))]
    counts = Counter(word for _, parts in texts for part in parts for word in part)
    for question, answer in asked:
        counts.update(question)
        counts.update(answer)
    vocabulary = [word for word, n in counts.most_common(limit) if n >= _RAREST]
    if not texts or len(vocabulary) < 2:
        raise DataError(f"{data} holds too little text for word vectors")
    numbers = {word: i for i, word in enumerate(vocabulary)}

    def encoded(part: list[str]) -> Array:
        return np.array([numbers[word] for word in part if word in numbers][:_LONGEST], dtype=np.int32)

    parts, owners, weights = [], [], []
    for owner, (weight, sentences) in enumerate(texts):
        for part in map(encoded, sentences):
            if len(part) >= 2:
                parts.append(part)
                owners.append(owner)
                weights.append(weight)
    known = [(a, b) for a, b in ((encoded(q), encoded(s)) for q, s in asked) if len(a) >= 2 and len(b) >= 2]
    sides = [side for pair in known for side in pair]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        counted = {"words": vocabulary, "counts": [counts[word] for word in vocabulary]}
        (folder / "words.json").write_text(json.dumps(counted, ensure_ascii=False), encoding="utf-8")
        np.savez(
            folder / "pairs.partial.npz",
            parts=np.concatenate(parts),
            part_offsets=np.cumsum([0, *map(len, parts)]),
            owners=np.array(owners, dtype=np.int32),
            weights=np.array(weights, dtype=np.float32),
            sides=np.concatenate(sides) if sides else np.zeros(0, np.int32),
            side_offsets=np.cumsum([0, *map(len, sides)]),
        )
        (folder / "pairs.partial.npz").replace(folder / "pairs.npz")


def _answered(found: Iterable[tuple[str, str, list[str]]]) -> Iterator[tuple[list[str], list[str]]]:
    """The terms of each question, and of the first sentence of its context that holds an answer."""
    for context, question, answers in found:
        holding = (s for s in _SENTENCE.split(context) if any(answer in s for answer in answers if answer))
        sentence = next(holding, None)
        if sentence is not None:
            yield words(question), words(sentence)


class WordPairs:
    """Draws pairs from what :func:`prepare_words` wrote."""

    def __init__(self, folder: Path):
        with np.load(folder / "pairs.npz") as arrays:
            self._parts, self._part_offsets = arrays["parts"], arrays["part_offsets"]
            self._sides, self._side_offsets = arrays["sides"], arrays["side_offsets"]
            self._owners = arrays["owners"]
            self._chance = np.cumsum(arrays["weights"], dtype=np.float64)

    def draw(
        self, rng: np.random.Generator, n: int, questions: float, neighbours: float
    ) -> list[tuple[Array, Array]]:
        """n pairs of term numbers; shares of questions and of neighbours, the rest are halves."""
        n_questions = (len(self._side_offsets) - 1) // 2
        kinds = rng.random(n)
        asked = rng.integers(max(1, n_questions), size=n)
        chosen = np.searchsorted(self._chance, rng.random(n) * self._chance[-1], side="right")
        # Each part's neighbour: mostly the next one or the one before, at times one further.
        steps = rng.choice([-2, -1, -1, 1, 1, 2], size=n)
        others = np.clip(chosen + steps, 0, len(self._owners) - 1)
        shares = rng.uniform(0.25, 0.5, size=n)
        found = []
        for kind, question, place, other, share in zip(kinds, asked, chosen, others, shares, strict=True):
            if kind < questions and n_questions:
                found.append((self._side(2 * question), self._side(2 * question + 1)))
            elif (
                kind < questions + neighbours
                and other != place
                and self._owners[other] == self._owners[place]
            ):
                found.append((self._part(place), self._part(other)))
            else:
                part = rng.permutation(self._long_enough(place))
                cut = max(1, int(len(part) * share))
                found.append((part[:cut], part[cut:]))
        return found

    def _long_enough(self, number: int) -> Array:
        """A part, or, where it is but a few words, the first words of the text that it stands in."""
        part = self._part(number)
        if len(part) >= _SHORTEST:
            return part
        first, last = np.searchsorted(self._owners, [self._owners[number], self._owners[number] + 1])
        found: Array = self._parts[self._part_offsets[first] : self._part_offsets[last]][:_LONGEST]
        return found

    def _part(self, number: int) -> Array:
        found: Array = self._parts[self._part_offsets[number] : self._part_offsets[number + 1]]
        return found

    def _side(self, number: int) -> Array:
        found: Array = self._sides[self._side_offsets[number] : self._side_offsets[number + 1]]
        return found
