"""One score per memory from three signals: its words, its neighbours' words, and its latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Words carry most of what pooled latents of a small codec cannot; a turn next to one that matches is often the
# answer to it; latents order what words leave equal.
LEXICAL_WEIGHT, CONTEXT_WEIGHT, LATENT_WEIGHT = 0.65, 0.3, 0.05


@dataclass(frozen=True)
class Score:
    """A memory's score and its parts, each 0..1, higher is better.

    Attributes:
        total: the mean of the parts that were used, weighted ``LEXICAL_WEIGHT``, ``CONTEXT_WEIGHT`` and
            ``LATENT_WEIGHT``.
        lexical: BM25 as a share of its maximum; None where words were not used.
        context: the better lexical score of the memories directly before and after it in its session; None where
            context was not used.
        latent: cosine of index vectors, negative ones as 0; None where latents were not used.
    """

    total: float
    lexical: float | None
    context: float | None
    latent: float | None


def fuse(
    lexical: Mapping[int, float] | None = None,
    context: Mapping[int, float] | None = None,
    latent: Mapping[int, float] | None = None,
) -> dict[int, Score]:
    """Scores of all candidates of any signal, best first; ties go to the later memory.

    A candidate without a latent score was not among the nearest: it takes the least similarity that was.

    Examples:
        >>> fuse({1: 0.5, 2: 0.1}, {2: 0.5}, {2: 0.9, 3: 0.4})[2]
        Score(total=0.26, lexical=0.1, context=0.5, latent=0.9)
    """
    least = min((latent or {}).values(), default=0.0)
    found = {}
    for version in {**(lexical or {}), **(context or {}), **(latent or {})}:
        parts = (
            None if lexical is None else lexical.get(version, 0.0),
            None if context is None else context.get(version, 0.0),
            None if latent is None else min(1.0, max(0.0, latent.get(version, least))),
        )
        used = [
            (weight, part)
            for weight, part in zip((LEXICAL_WEIGHT, CONTEXT_WEIGHT, LATENT_WEIGHT), parts, strict=True)
            if part is not None
        ]
        total = sum(weight * part for weight, part in used) / sum(weight for weight, _ in used)
        found[version] = Score(round(total, 6), *parts)
    return dict(sorted(found.items(), key=lambda item: (-item[1].total, -item[0])))
