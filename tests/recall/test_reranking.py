"""Any model's scores become numbers of 0..1 without changing their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents import InvalidArgument
from nextmem_agents.recall.reranking import rerank_scores

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=20))
def test_scores_are_0_to_1_in_the_order_that_was_given(given_: list[float]) -> None:
    texts = [str(i) for i in range(len(given_))]
    scores = rerank_scores(
        lambda query, texts: np.array(given_)[:, None], "q", texts
    )  # a column, as torch gives
    assert all(0 <= score <= 1 for score in scores)
    for a in range(len(scores)):
        for b in range(len(scores)):
            assert not (given_[a] < given_[b] and scores[a] > scores[b])
    if all(0 <= score <= 1 for score in given_):
        assert scores == given_


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("inf")], ["a", "b"], None])
def test_nonsense_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match="rerank gives one"):
        rerank_scores(lambda query, texts: wrong, "q", ["a", "b"])  # type: ignore[arg-type, return-value]


def test_what_the_model_raises_comes_through() -> None:
    def broken(query: str, texts: object) -> list[float]:
        raise TypeError("my own")

    with pytest.raises(TypeError, match="my own"):
        rerank_scores(broken, "q", ["a"])


def test_nothing_to_rank_asks_nobody() -> None:
    assert rerank_scores(lambda query, texts: 1 / 0, "q", []) == []
