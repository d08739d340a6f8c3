"""Recency: what happened lately counts for more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from nextmem_agents.errors import InvalidArgument


@dataclass(frozen=True)
class Recency:
    """How much it counts when a memory happened (``occurred_at``; where that is unknown, when it was remembered).

    A memory's recency is 0.5 ** (age / half_life), 1 for what happens now (as in Park et al., "Generative Agents",
    arXiv 2304.03442, who decay by the hour). The score becomes (1 - weight) × score + weight × recency.

    Attributes:
        half_life: the age at which a memory's recency is one half; a positive timedelta.
        weight: 0..1; 1 orders by time alone.
        now: the moment that ages are counted from; by default the present, or ``as_of``. What is later has age 0.

    Examples:
        >>> week = Recency(timedelta(days=7), now=datetime(2025, 5, 15))
        >>> week.value(datetime(2025, 5, 8, tzinfo=timezone.utc))
        0.5
    """

    half_life: timedelta = timedelta(days=30)
    weight: float = 0.2
    now: datetime | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.half_life, timedelta) or self.half_life <= timedelta(0):
            raise InvalidArgument(
                f"the half-life of recency is a positive timedelta, not {self.half_life!r:.80}"
            )
        check_share("the weight of recency", self.weight)
        if self.now is not None and not isinstance(self.now, datetime):
            raise InvalidArgument(f"recency counts from a datetime, not {self.now!r:.80}")

    def value(self, when: datetime) -> float:
        """The recency of what happened at ``when``, 0..1."""
        now = self.now or datetime.now(timezone.utc)
        now = now if now.tzinfo else now.replace(tzinfo=timezone.utc)
        return float(0.5 ** (max(now - when, timedelta(0)) / self.half_life))


def check_share(name: str, value: object) -> float:
    """A number from 0 to 1.

    Raises:
        InvalidArgument: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidArgument(f"{name} is a number from 0 to 1, not {value!r:.80}")
    return float(value)
