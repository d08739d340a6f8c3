"""Weights are tuned on some conversations and measured on others."""

from __future__ import annotations

import numpy as np

from nextmem_agents.evaluation.benchmark import Query
from nextmem_agents.evaluation.haystacks import Haystack, Item
from nextmem_agents.evaluation.retrieval import MEASURES, Searched
from nextmem_agents.evaluation.retrieval_tuning import Candidates, cross_validated, untouched
from nextmem_agents.recall.ranking import TUNED_ON, WEIGHTS, Score

NAMES = ("one", "two", "three")


def searched(names: tuple[str, ...]) -> tuple[Searched, list[Haystack]]:
    """Conversations in which the right answer has the best latents, and twelve others have better words."""
    items = tuple(Item(str(i), f"text {i}") for i in range(13))
    haystacks = [Haystack(name, items, (Query(f"{name}?", "?", "x", (), ("0",)),)) for name in names]
    scored = [("0", Score(0.1, lexical=0.5, latent=1.0))]
    scored += [(str(i), Score(0.5, lexical=0.52, latent=0.0)) for i in range(1, 13)]
    found = Searched(
        {"hybrid": np.zeros((len(names), len(MEASURES)))},
        {},
        0.0,
        np.array(["x"] * len(names)),
        np.array(names),
        {},
        [scored] * len(names),
    )
    return found, haystacks


def test_tuning_turns_to_the_signal_that_tells() -> None:
    candidates = Candidates(*searched(NAMES))
    rows = np.arange(3)
    latent_alone = dict.fromkeys(WEIGHTS, 0.0) | {"latent": 1.0}
    words_alone = dict.fromkeys(WEIGHTS, 0.0) | {"lexical": 1.0}
    assert candidates.objective(latent_alone, rows) == 2.0
    assert candidates.objective(words_alone, rows) == 0.0
    assert candidates.objective(candidates.tune(rows), rows) >= candidates.objective(dict(WEIGHTS), rows)
    assert candidates.measured(latent_alone, rows)[:, MEASURES.index("mrr")].tolist() == [1, 1, 1]


def test_every_question_is_measured_under_weights_of_the_others() -> None:
    found = cross_validated(*searched(NAMES))
    assert found.shape == (3, len(MEASURES))
    assert (found[:, MEASURES.index("recall_10")] == 1).all()


def test_what_the_weights_were_tuned_on_is_named() -> None:
    one, other = TUNED_ON[0], "conv-99"
    assert untouched(searched((one, other))[0]).tolist() == [False, True]  # type: ignore[union-attr]
    assert untouched(searched(NAMES)[0]) is None
