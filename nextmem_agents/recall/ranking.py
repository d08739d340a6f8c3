"""One score per memory from its two signals: words and latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Words carry most of what pooled latents of a small codec cannot; latents order what words leave equal.
LEXICAL_WEIGHT = 0.8


@dataclass(frozen=True)
class Score:
    """A memory's score and its parts, each 0..1, higher is better.

    Attributes:
        total: ``LEXICAL_WEIGHT`` × lexical + the rest × latent, or one of the two alone if the other is off.
        lexical: BM25 as a share of its maximum; None where the words were not used.
        latent: cosine of index vectors, negative ones as 0; None where latents were not used.
    """

    total: float
    lexical: float | None
    latent: float | None


def fuse(lexical: Mapping[int, float] | None, latent: Mapping[int, float] | None) -> dict[int, Score]:
    """Scores of all candidates of either signal, best first; ties go to the later memory.

    A candidate of the words alone was not among the nearest: it takes the least similarity that was.

    Examples:
        >>> fuse({1: 0.5, 2: 0.1}, {2: 0.9, 3: 0.4})[2]
        Score(total=0.26, lexical=0.1, latent=0.9)
    """
    least = min((max(0.0, s) for s in (latent or {}).values()), default=0.0)
    scores = {}
    for version in {**(lexical or {}), **(latent or {})}:
        words = None if lexical is None else lexical.get(version, 0.0)
        vector = None if latent is None else max(0.0, latent.get(version, least))
        if words is None:
            total = vector or 0.0
        elif vector is None:
            total = words
        else:
            total = LEXICAL_WEIGHT * words + (1 - LEXICAL_WEIGHT) * vector
        scores[version] = Score(min(1.0, round(total, 6)), words, vector)
    return dict(sorted(scores.items(), key=lambda item: (-item[1].total, -item[0])))
