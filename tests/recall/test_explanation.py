"""A score is the sum of its parts, whatever was joined to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.explanation import Explanation
from nextmem_agents.recall.ranking import WEIGHTS, WITH_EMBEDDER, Score

shares = st.floats(0, 1)
signals = st.dictionaries(st.sampled_from(sorted(WEIGHTS)), shares, min_size=1)


def score_of(parts: dict[str, float]) -> Score:
    whole = sum(WEIGHTS[name] for name in parts)
    return Score(round(sum(WEIGHTS[n] * v for n, v in parts.items()) / whole, 6), **parts)


def holds(why: Explanation) -> None:
    assert 0 <= why.score <= 1
    assert why.score == pytest.approx(sum(part.contribution for part in why.parts), abs=1e-4)
    assert all(0 <= part.value <= 1 and 0 <= part.weight <= 1 for part in why.parts)


@given(signals, shares, shares, shares, shares)
def test_the_parts_add_up_after_every_step(
    parts: dict[str, float], recency: float, importance: float, retention: float, weight: float
) -> None:
    why = Explanation.of(score_of(parts), 1)
    holds(why)
    holds(joined := why.joined({"recency": (recency, 0.3), "importance": (importance, 0.7 * weight)}))
    holds(joined.faded(retention, weight))
    holds(why.replaced("rerank", recency).faded(retention, weight))


@given(signals)
def test_an_embedders_cosine_counts_more_than_latents(parts: dict[str, float]) -> None:
    own, embedded = (
        {part.name: part.weight for part in Explanation.of(score_of(parts), 1, weights).parts}
        for weights in (WEIGHTS, WITH_EMBEDDER)
    )
    assert sum(embedded.values()) == pytest.approx(1, abs=1e-4)
    if len(parts) > 1 and "latent" in parts:
        assert all((embedded[name] > own[name]) == (name == "latent") for name in parts)
    else:
        assert embedded == own


def test_what_decay_takes_away_is_negative() -> None:
    why = Explanation.of(Score(0.8, lexical=0.8), 1).faded(0.5, 0.5)
    assert (why.score, why.parts[-1].contribution) == (0.6, -0.2)


def test_steps_are_told_in_their_order() -> None:
    why = (
        Explanation.of(Score(0.8, lexical=0.8), 3).stepped("decay", 2).stepped("diversity", 1, "0.90 like a")
    )
    assert str(why).splitlines()[-1] == "place 3 by relevance, 2 by decay, 1 by diversity (0.90 like a)"
