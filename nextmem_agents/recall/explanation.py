"""Why a memory has its score and its place: the parts that add up to the score, and each step's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nextmem_agents.recall.ranking import WEIGHTS, Score


@dataclass(frozen=True)
class Part:
    """A part of a score.

    Attributes:
        name: ``"lexical"``, ``"latent"``, ``"recency"`` …
        value: 0..1, higher is better.
        weight: 0..1; how much of the score it decides.
        contribution: what it adds to the score (weight × value); what decay takes away is negative.
    """

    name: str
    value: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class Step:
    """A step of the ranking that gave the memory a place.

    Attributes:
        name: ``"relevance"`` (always the first), ``"rerank"``, ``"recency and importance"``, ``"decay"``,
            ``"diversity"`` or ``"neighbours"``.
        place: the memory's after this step, from 1.
        note: what decided it, in words; empty where the score did.
    """

    name: str
    place: int
    note: str = ""


@dataclass(frozen=True)
class Explanation:
    """A memory's score as the sum of its parts, and its place after each step of the ranking.

    Attributes:
        score: 0..1; the sum of the parts' contributions, but for rounding in the sixth decimal.
        parts: in the order in which they were counted.
        steps: in their order; what changed nothing for any memory is not among them.

    Examples:
        >>> print(Explanation.of(Score(0.5, lexical=0.6, context=0.22), 2).stepped("diversity", 1))
        score 0.500
          lexical     0.600 x 0.737 = +0.442
          context     0.220 x 0.263 = +0.058
        place 2 by relevance, 1 by diversity
    """

    score: float
    parts: tuple[Part, ...]
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, score: Score, place: int, weights: Mapping[str, float] = WEIGHTS) -> Explanation:
        """The explanation of a relevance alone.

        Args:
            score: with its signals.
            place: from 1.
            weights: those that ``score.total`` was made with.
        """
        parts = tuple(_part(name, *found) for name, found in score.parts(weights).items())
        return cls(score.total, parts, (Step("relevance", place),))

    def replaced(self, name: str, value: float) -> Explanation:
        """Another relevance in the place of what was found first."""
        parts = (_part(name, value, 1.0),)
        return replace(self, score=_sum(parts), parts=parts)

    def joined(self, others: dict[str, tuple[float, float]]) -> Explanation:
        """With further parts, given as name → (value, weight); what there is keeps the rest of the weight."""
        left = 1 - sum(weight for _, weight in others.values())
        kept = [_part(part.name, part.value, part.weight * left) for part in self.parts]
        added = [_part(name, value, weight) for name, (value, weight) in others.items()]
        total = self.score * left + sum(part.contribution for part in added)
        return replace(self, score=_bounded(total), parts=(*kept, *added))

    def faded(self, retention: float, weight: float) -> Explanation:
        """With the share that decay takes away: weight × (1 - retention) of the score."""
        lost = -weight * (1 - retention) * self.score
        part = Part("decay", retention, weight, round(lost, 6))
        return replace(self, score=_bounded(self.score + lost), parts=(*self.parts, part))

    def placed(self, place: int) -> Explanation:
        """With another place by relevance."""
        return replace(self, steps=(Step("relevance", place), *self.steps[1:]))

    def stepped(self, name: str, place: int, note: str = "") -> Explanation:
        """With a further step."""
        return replace(self, steps=(*self.steps, Step(name, place, note)))

    def __str__(self) -> str:
        lines = [f"score {self.score:.3f}"]
        for part in self.parts:
            lines.append(f"  {part.name:<11} {part.value:.3f} x {part.weight:.3f} = {part.contribution:+.3f}")
        places = [
            f"{step.place} by {step.name}{f' ({step.note})' if step.note else ''}" for step in self.steps
        ]
        return "\n".join([*lines, f"place {', '.join(places)}"])


def _part(name: str, value: float, weight: float) -> Part:
    return Part(name, round(value, 6), round(weight, 6), round(value * weight, 6))


def _sum(parts: tuple[Part, ...]) -> float:
    return _bounded(sum(part.value * part.weight for part in parts))


def _bounded(total: float) -> float:
    return round(min(1.0, max(0.0, total)), 6)
