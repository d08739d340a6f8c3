"""Retrieval figures: the controls, the measures, and the paired bootstrap."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation import retrieval_controls as controls
from nextmem_agents.evaluation.benchmark import Benchmark, History, Query
from nextmem_agents.evaluation.haystacks import WHOLE, Haystack, Item, conversations, passages
from nextmem_agents.evaluation.locomo import Session, Turn
from nextmem_agents.evaluation.retrieval import MEASURES, bootstrap, measure

DAY = datetime(2024, 5, 1, tzinfo=timezone.utc)
TALK = Haystack(
    "talk",
    (
        Item("1", "What did you paint?", "s1", "Ann", DAY),
        Item("2", "A harbour at dusk.", "s1", "Bob", DAY),
        Item("3", "Nothing new here.", "s2", "Ann", DAY),
    ),
    (Query("q", "What was painted?", "x", ("A harbour",), ("2",)),),
)


def benchmark(histories: list[History], name: str = "LoCoMo", evidence_of: str = "turn") -> Benchmark:
    return Benchmark(
        name, "file.json", "0" * 64, tuple(histories), ("x",), "F1", lambda *_: 0.0, evidence_of=evidence_of
    )


def history(name: str, n_sessions: int, evidence: tuple[str, ...]) -> History:
    sessions = tuple(
        Session(f"s{i}", DAY, (Turn(f"s{i}:0", "user", f"Text {i}."),)) for i in range(n_sessions)
    )
    return History(name, sessions, (Query(name, "Which text?", "x", ("1",), evidence),))


def test_the_controls_find_words_and_neighbours() -> None:
    assert controls.fts5(TALK, 5)[0][0] == "1"
    assert controls.bm25(TALK, 5) == [["1"]]
    assert controls.bm25_with_neighbours(TALK, 5) == [["1", "2"]]


def test_a_question_of_no_words_finds_nothing() -> None:
    asked = Haystack("talk", TALK.items, (Query("q", "?!", "x", (), ("1",)),))
    assert (
        controls.fts5(asked, 5) == controls.bm25(asked, 5) == controls.bm25_with_neighbours(asked, 5) == [[]]
    )


def test_sessions_are_ranked_by_their_best_item() -> None:
    by_session = Haystack("talk", TALK.items, TALK.queries, by_session=True)
    assert by_session.ranked(["3", "2", "1"]) == ["s2", "s1"]
    assert TALK.ranked(["3", "2"]) == ["3", "2"]


def test_what_is_no_whole_haystack_and_what_names_no_evidence_is_left_out() -> None:
    whole, small = history("a", WHOLE, ("s3",)), history("b", WHOLE - 1, ("s3",))
    [found] = conversations(benchmark([whole, small, history("c", WHOLE, ())], evidence_of="session"))
    assert (found.name, found.by_session, len(found.items)) == ("a", True, WHOLE)
    with pytest.raises(DataError, match="evidence"):
        conversations(benchmark([small], evidence_of="session"))


def test_a_passage_that_several_questions_bring_is_one_item() -> None:
    same = Session("paragraphs", None, (Turn("p0", "Lisbon", "A city."), Turn("p1", "Porto", "Another.")))
    asked = [
        History(n, (same,), (Query(n, "Which?", "x", ("a",), (evidence,)),))
        for n, evidence in (("1", "p0"), ("2", "p1"))
    ]
    found = passages(benchmark(asked, "HotpotQA"))
    assert [item.text for item in found.items] == ["Lisbon. A city.", "Porto. Another."]
    assert [query.evidence for query in found.queries] == [("p0",), ("p1",)]
    assert [query.id for query in passages(benchmark(asked, "HotpotQA"), limit=1).queries] == ["1"]
    assert passages(benchmark(asked, "SQuAD")).items[0].text == "A city."


def test_measures_of_one_question() -> None:
    found = dict(zip(MEASURES, measure(["x", "a", "y", "z", "w", "b"], ["a", "b"]), strict=True))
    assert (found["hit_1"], found["hit_5"], found["hit_10"]) == (0, 1, 1)
    assert (found["recall_5"], found["recall_10"], found["all_5"]) == (0.5, 1, 0)
    assert found["mrr"] == 0.5
    assert 0 < found["ndcg_10"] < 1


def test_a_clear_difference_is_sure_and_none_is_not() -> None:
    rng = np.random.default_rng(1)
    worse = rng.random(300)
    clear = bootstrap(worse + 0.1 + 0.05 * rng.standard_normal(300), worse)
    assert clear["p"] < 0.001
    assert 0 < clear["low"] < clear["difference"] < clear["high"]
    assert bootstrap(worse, worse)["p"] == 1.0
    unsure = bootstrap(rng.random(300), rng.random(300))
    assert unsure["low"] < 0 < unsure["high"]
