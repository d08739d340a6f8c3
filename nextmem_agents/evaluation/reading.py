"""What one and the same reader answers from text, from decompressed text, from injected latents, and from nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nextmem_agents.codec.injection import Segment
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CannotAnswer, DataError
from nextmem_agents.evaluation.metrics import exact_match, squad_normalise, token_f1
from nextmem_agents.training.facts import facts
from nextmem_agents.training.pairs import read_questions

_BATCH = 32
_ANSWER_TOKENS = 20


@dataclass(frozen=True)
class Asked:
    """A question, the memories that stand beside each other in its prompt, and the right answers."""

    memories: list[str]
    question: str
    answers: list[str]


@dataclass(frozen=True)
class Reading:
    """One row.

    Attributes:
        memory: ``text`` (the memories' tokens), ``decompressed`` (tokens of what the decoder makes of the 4-bit
            latents, unrepaired), ``injected`` (the 4-bit latents), ``none`` (the question alone), ``another's`` (the
            4-bit latents of another question's memories), ``chance`` (another question's answer).
        questions: how many.
        exact: share of answers that equal a right one after SQuAD's normalisation.
        f1: token F1 against the best right answer (SQuAD's).
        positions: mean prompt positions that the memories take.
    """

    memory: str
    questions: int
    exact: float
    f1: float
    positions: float


def held_out_facts(count: int, memories: int, seed: int = 0) -> list[Asked]:
    """Questions about made-up facts of names that training never used, among other such facts; see ``facts``."""
    drawn = list(facts(count * memories, seed, held_out=True))
    rng = np.random.default_rng(seed)
    asked = []
    for i in range(count):
        group = drawn[i * memories : (i + 1) * memories]
        statements = [fact.statement for fact in group]
        rng.shuffle(statements)
        asked.append(Asked(statements, group[0].question, [group[0].answer]))
    return asked


def questions_of(path: Path, codec: LatentCodec, count: int, tokens: int = 64, seed: int = 0) -> list[Asked]:
    """Questions of a question-answering file, each with the ``tokens`` tokens of context around its answer.

    Raises:
        DataError: the file is missing, malformed, or holds no usable question.
    """
    found = [row for row in read_questions(path) if any(answer in row[0] for answer in row[2])]
    if not found:
        raise DataError(f"{path} holds no question whose answer is in its context")
    asked = []
    for i in np.random.default_rng(seed).permutation(len(found))[:count]:
        context, question, answers = found[i]
        answer = next(a for a in answers if a in context)
        # As many tokens on both sides as there is room for, at whole words.
        words = context.split(" ")
        at = len(context[: context.index(answer)].split(" ")) - 1
        low, high = at, min(len(words), at + len(answer.split(" ")))
        while (low > 0 or high < len(words)) and codec.count_tokens(
            " ".join(words[max(0, low - 1) : high + 1])
        ) <= tokens:
            low, high = max(0, low - 1), min(len(words), high + 1)
        asked.append(Asked([" ".join(words[low:high])], question, answers))
    return asked


def evaluate(codec: LatentCodec, asked: Sequence[Asked]) -> list[Reading]:
    """Ask every question in every way.

    Raises:
        CannotAnswer: the codec has no reader.
        DataError: there is no question.
    """
    if not codec.reads_bare:
        raise CannotAnswer(
            f"codec {codec.config.name!r} has no reader; train one with `nextmem train span-reader` or "
            "`nextmem train reader`"
        )
    if not asked:
        raise DataError("there is no question to ask")
    flat = [memory for item in asked for memory in item.memories]
    latents = codec.dequantize(codec.quantize(codec.encode(flat)))
    decoded = codec.decode(latents)
    rows = [values[:n] for values, n in zip(latents.values, latents.lengths.tolist(), strict=True)]

    def grouped(items: Sequence[Segment]) -> list[list[Segment]]:
        remaining = iter(items)
        return [[next(remaining) for _ in item.memories] for item in asked]

    ways: dict[str, list[list[Segment]]] = {
        "text": grouped(codec.tokenizer.encode(flat)),
        "decompressed": grouped(codec.tokenizer.encode(decoded)),
        "injected": grouped(rows),
        "none": [[] for _ in asked],
    }
    ways["another's"] = ways["injected"][1:] + ways["injected"][:1]
    questions = [item.question for item in asked]
    found = []
    for name, memories in ways.items():
        replies: list[str] = []
        for begin in range(0, len(asked), _BATCH):
            batch = slice(begin, begin + _BATCH)
            replies += codec.read(memories[batch], questions[batch], _ANSWER_TOKENS)
        positions = float(np.mean([sum(map(len, m)) for m in memories]))
        found.append(_row(name, replies, asked, positions))
    others = [item.answers[0] for item in asked]
    return [*found, _row("chance", others[1:] + others[:1], asked, 0.0)]


def _row(name: str, replies: Sequence[str], asked: Sequence[Asked], positions: float) -> Reading:
    def mean(score: Callable[[str, str], float]) -> float:
        best = [
            max(score(reply, a) for a in item.answers) for reply, item in zip(replies, asked, strict=True)
        ]
        return sum(best) / len(best)

    def f1(reply: str, answer: str) -> float:
        return token_f1(squad_normalise(reply).split(), squad_normalise(answer).split())

    return Reading(name, len(asked), mean(exact_match), mean(f1), positions)
