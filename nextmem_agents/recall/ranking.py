"""One score per memory from the signals that were used for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]

TUNED_ON = ("conv-26", "conv-30", "conv-41")
"""The LoCoMo conversations that the weights were tuned on; what is reported is of others, or cross-validated."""

LATE_SHARE = 0.7
"""Of late interaction in a latent score; the rest is the index vectors' cosine. Tuned on :data:`TUNED_ON`, too."""

WEIGHTS = {
    "lexical": 0.28,
    "linked": 0.16,
    "context": 0.1,
    "around": 0.28,
    "session": 0.2,
    "speaker": 0.14,
    "time": 0.1,
    "latent": 0.1,
}
"""What each signal counts; they were tuned on the LoCoMo conversations :data:`TUNED_ON`, from equal weights.

One weight after the other was multiplied by 0, 0.5, 0.7, 1.4 or 2 for as long as recall at 5 plus recall at 10 rose.
Words carry most of what pooled latents of a small codec cannot; a turn next to one that matches is often the answer to
it; who spoke and when narrow a conversation down; latents order what words leave equal.
"""

WITH_EMBEDDER = WEIGHTS | {"latent": 0.22}
"""What each signal counts where the user's embedder stands in the index: its cosine is worth more than a codec's.

Measured with all-MiniLM-L6-v2 (22M parameters). On LoCoMo, where conversation shares the score, recall at 5 and 10 is
.720 and .793 without an embedder, .731 and .811 with it at a fifth of the score, .653 and .745 at half. On passages of
SQuAD's training set, where words alone share the score, half is best: Hit@1 .952; .946 at two fifths, .902 without. One
weight among the others comes near both. It was chosen on :data:`TUNED_ON`; the LoCoMo figures are of all conversations.
"""


@dataclass(frozen=True)
class Score:
    """A memory's score and its parts, each 0..1, higher is better, None where it was not used for the query.

    Attributes:
        total: the mean of the parts that were used, weighted by :data:`WEIGHTS` or :data:`WITH_EMBEDDER`.
        lexical: BM25 as a share of its maximum.
        linked: how much of what the best memory leaves unanswered is said, in words that it holds or the query does
            (:func:`nextmem_agents.recall.linking.linked`); used where there are no sessions and it leaves some.
        context: the better lexical score of the memories directly before and after it in its session.
        around: how much of the query is said around it in its session; used where there are sessions.
        session: BM25 of its whole session as one text; used where there are sessions.
        speaker: 1 if it was said by one whom the query names; used where the query names some of the speakers.
        time: how near it lies to a time that the query names; used where it names one.
        latent: cosine of index vectors (where they are projected, of stored latents), negative ones as 0; in a
            ``"latent"`` ranking by an index head, joined with late interaction (:data:`LATE_SHARE`).
    """

    total: float
    lexical: float | None = None
    linked: float | None = None
    context: float | None = None
    around: float | None = None
    session: float | None = None
    speaker: float | None = None
    time: float | None = None
    latent: float | None = None

    def parts(self, weights: Mapping[str, float] = WEIGHTS) -> dict[str, tuple[float, float]]:
        """Each signal that was used, with its value 0..1 and its weight in the total; the weights add up to 1.

        Args:
            weights: those that ``total`` was made with.

        Examples:
            >>> Score(0.5, lexical=0.6, context=0.22).parts()
            {'lexical': (0.6, 0.736842), 'context': (0.22, 0.263158)}
        """
        used = {
            field.name: value
            for field in fields(self)
            if field.name in weights and (value := getattr(self, field.name)) is not None
        }
        whole = sum(weights[name] for name in used)
        return {name: (value, round(weights[name] / whole, 6)) for name, value in used.items()}


def fuse(
    versions: npt.NDArray[np.int64],
    signals: Mapping[str, Signal | None],
    limit: int | None = None,
    weights: Mapping[str, float] = WEIGHTS,
) -> dict[int, Score]:
    """Scores of memories from their signals, best first; ties go to the later memory.

    Args:
        versions: ``[n]``, of the memories to rank.
        signals: by the names of :data:`WEIGHTS`, each ``[n]`` and clipped to 0..1; None for one that was not used.
        limit: at most this many are returned.
        weights: by the names of signals.

    Examples:
        >>> signals = {"lexical": np.array([0.5, 0.1]), "context": np.array([0.0, 0.2])}
        >>> fuse(np.array([1, 2]), signals)[2]
        Score(total=0.126316, lexical=0.1, linked=None, context=0.2, ...)
    """
    used = {name: np.clip(values, 0.0, 1.0) for name, values in signals.items() if values is not None}
    whole = sum(weights[name] for name in used)
    totals = np.zeros(len(versions))
    for name, values in used.items():
        totals += weights[name] * values
    # Rounded, so that the order of equal ones does not hang on the order of additions.
    totals = np.round(totals / whole, 6) if used else totals
    best = np.arange(len(totals))
    if limit is not None and limit < len(
        totals
    ):  # sorting all of a large scope would take longer than its search
        best = np.flatnonzero(totals >= np.partition(totals, -limit)[-limit])
    best = best[np.lexsort((-versions[best], -totals[best]))[:limit]]
    columns = [(name, np.round(values[best], 6).tolist()) for name, values in used.items()]
    return {
        version: Score(total, **{name: values[i] for name, values in columns})
        for i, (version, total) in enumerate(zip(versions[best].tolist(), totals[best].tolist(), strict=True))
    }
