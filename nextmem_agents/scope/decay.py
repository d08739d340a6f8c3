"""Forgetting as a ranking signal: what was not recalled for long counts less, and nothing is ever deleted by it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store.records import Access, Record


@dataclass(frozen=True)
class Decay:
    """How a memory's score falls with the time since it was last recalled.

    Retention is Ebbinghaus's curve as MemoryBank uses it (Zhong et al., 2023, arXiv 2305.10250): R = exp(-t / S), t
    since the last recall, or the writing, and the strength S growing by one unit with each recall. Importance (0..1)
    stretches S up to twofold. The score becomes (1 - weight) * score + weight * R * score.

    Attributes:
        half_life: after which a memory that was never recalled, and is not important, retains one half.
        weight: 0 leaves the ranking as it is; 1 multiplies each score by its retention.

    Examples:
        >>> Decay(timedelta(days=10)).retention(timedelta(days=10))
        0.5
        >>> round(Decay(timedelta(days=10)).retention(timedelta(days=10), recalls=1, importance=1.0), 3)
        0.841
    """

    half_life: timedelta = timedelta(days=30)
    weight: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.half_life, timedelta) or self.half_life <= timedelta(0):
            raise InvalidArgument(f"half_life is a positive timedelta, not {self.half_life!r:.80}")
        if (
            isinstance(self.weight, bool)
            or not isinstance(self.weight, int | float)
            or not 0 <= self.weight <= 1
        ):
            raise InvalidArgument(f"the weight of decay is a number from 0 to 1, not {self.weight!r:.80}")

    def retention(self, age: timedelta, recalls: int = 0, importance: float | None = None) -> float:
        """The share that is retained ``age`` after the last recall, 0..1."""
        strength = (1 + recalls) * (1 + (importance or 0.0))
        return float(0.5 ** (max(age, timedelta(0)) / self.half_life / strength))

    def retained(self, record: Record, access: Access | None, now: datetime) -> float:
        """The share that a memory retains, by when it was written and how it was recalled."""
        last = record.updated_at if access is None else max(access.last, record.updated_at)
        return self.retention(now - last, access.count if access else 0, record.importance)
