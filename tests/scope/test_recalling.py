"""What counts beside relevance: every step does what it says, and every score says what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextmem_agents import InvalidArgument, NextMem, Recency, Scope, Trust
from nextmem_agents.scope import Decay, RecallOptions
from nextmem_agents.scope.options import check_options

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)


@pytest.fixture
def ann(fake: NextMem) -> Scope:
    return fake.scope("ann")


def texts(hits: Sequence[object]) -> list[str]:
    return [hit.text for hit in hits]  # type: ignore[attr-defined]


def test_of_two_that_are_equally_relevant_the_recent_one_comes_first(ann: Scope) -> None:
    ann.remember(["I like tea.", "I like tea."], id=["new", "old"], occurred_at=[NOW - DAY, NOW - 365 * DAY])
    assert [hit.id for hit in ann.recall("tea")] == ["old", "new"]  # ties go to the later written one
    hits = ann.recall("tea", recency=Recency(30 * DAY, weight=0.4, now=NOW))
    assert [hit.id for hit in hits] == ["new", "old"]
    recency = {part.name: part for part in hits[0].explain().parts}["recency"]
    assert recency.value == pytest.approx(0.5 ** (1 / 30), abs=1e-6)
    assert recency.contribution == pytest.approx(0.4 * recency.value, abs=1e-6)


def test_a_timedelta_is_a_half_life_and_ages_are_counted_to_as_of(ann: Scope) -> None:
    ann.remember("I like tea.", occurred_at=datetime.now(timezone.utc) - 10 * DAY)
    parts = {part.name: part.value for part in ann.recall("tea", recency=10 * DAY)[0].explain().parts}
    assert parts["recency"] == pytest.approx(0.5, abs=1e-3)
    later = datetime.now(timezone.utc) + 10 * DAY
    parts = {
        part.name: part.value for part in ann.recall("tea", recency=10 * DAY, as_of=later)[0].explain().parts
    }
    assert parts["recency"] == pytest.approx(0.25, abs=1e-3)


def test_an_important_memory_rises_and_one_without_importance_is_in_the_middle(ann: Scope) -> None:
    ann.remember(["tea a"], importance=1.0, id=["high"])
    ann.remember(["tea b"], id=["none"])
    ann.remember(["tea c"], importance=0.0, id=["low"])
    assert [hit.id for hit in ann.recall("tea", importance=0.5)] == ["high", "none", "low"]
    values = {hit.id: hit.explain().parts[-1].value for hit in ann.recall("tea", importance=0.5)}
    assert values == {"high": 1.0, "none": 0.5, "low": 0.0}
    assert {part.name for part in ann.recall("tea")[0].explain().parts}.isdisjoint({"importance", "recency"})


def test_diversity_holds_back_what_says_the_same_again(ann: Scope) -> None:
    ann.remember(["tea tea tea", "tea tea tea", "tea and a cake"], id=["a", "b", "c"])
    assert [hit.id for hit in ann.recall("tea", k=2)] == ["b", "a"]
    hits = ann.recall("tea", k=2, diversity=0.5)
    assert [hit.id for hit in hits] == ["b", "c"]
    assert hits[0].explain().steps[-1].name == "diversity"
    assert [hit.score for hit in hits] == [ann.recall("tea")[0].score, ann.recall("tea")[2].score]
    note = ann.recall("tea", k=3, diversity=0.5)[2].explain().steps[-1].note
    assert note == "1.00 like b"


def test_the_turns_beside_a_hit_follow_the_hits_and_name_them(ann: Scope) -> None:
    ann.remember([f"turn {i}" for i in range(3)] + ["the spare key"] + ["turn 4", "turn 5"], session="s")
    ann.remember("elsewhere", session="other")
    hits = ann.recall("key", k=1, ranking="lexical", neighbours=2)
    assert texts(hits) == ["the spare key", "turn 1", "turn 2", "turn 4", "turn 5"]
    assert [hit.beside for hit in hits] == [None, *[hits[0].id] * 4]
    assert [hit.score > 0 for hit in hits] == [True, False, False, False, False]
    assert hits[1].explain().steps[-1].name == "neighbours"
    assert texts(ann.recall("key", k=1, ranking="lexical", neighbours=1)) == [
        "the spare key",
        "turn 2",
        "turn 4",
    ]


def test_a_neighbour_that_is_a_hit_itself_comes_once(ann: Scope) -> None:
    ann.remember(["key one", "key two", "nothing"], session="s")
    hits = ann.recall("key", k=2, ranking="lexical", neighbours=1)
    assert sorted(texts(hits)) == ["key one", "key two", "nothing"]


def test_what_where_and_trust_leave_out_is_no_neighbour_either(ann: Scope) -> None:
    ann.remember(["asked", "the key", "fetched page"], session="s", role=["user", "user", "tool"])
    assert texts(ann.recall("key", k=1, ranking="lexical", neighbours=1, where={"role": "user"})) == [
        "the key",
        "asked",
    ]
    assert texts(ann.recall("key", k=1, ranking="lexical", neighbours=1, trusted_only=True)) == [
        "the key",
        "asked",
    ]


def test_trusted_only_leaves_out_what_came_from_elsewhere(ann: Scope) -> None:
    ann.remember("key a", role="user")
    ann.remember("key b", role="assistant")
    ann.remember("key c", role="tool")
    ann.remember("key d")
    ann.remember("key e", role="assistant", derived_from="https://example.org")
    ann.remember("key f", metadata={"source": "handbook.pdf"})
    found = set(texts(ann.recall("key", k=10)))
    assert found == {f"key {c}" for c in "abcdef"}
    assert set(texts(ann.recall("key", k=10, trusted_only=True))) == {"key a", "key b"}
    trusted = Trust(roles=("user",), sources=("handbook.pdf", "https://example.org"))
    assert set(texts(ann.recall("key", k=10, trusted_only=trusted))) == {"key a", "key e", "key f"}
    narrowed = ann.recall("key", k=10, trusted_only=True, where={"role": "assistant"})
    assert texts(narrowed) == ["key b"]


def test_the_trusted_are_found_behind_any_number_of_others(ann: Scope) -> None:
    ann.remember(["key key key"] * 700, role="tool")
    ann.remember("one key among many other words", metadata={"source": "me"})
    trusted = Trust(roles=(), sources=("me",))
    for ranking in ("hybrid", "lexical", "latent"):
        assert len(ann.recall("key", k=3, trusted_only=trusted, ranking=ranking)) == 1  # type: ignore[arg-type]


def test_a_reranker_reads_the_best_and_its_scores_are_the_relevance(ann: Scope) -> None:
    ann.remember([f"tea number {i}" for i in range(40)])
    seen: list[Sequence[str]] = []

    def by_number(query: str, given: Sequence[str]) -> list[float]:
        assert query == "tea"
        seen.append(given)
        return [float(text.split()[-1]) for text in given]  # no probabilities: logits

    hits = ann.recall("tea", k=3, rerank=by_number)
    assert len(seen) == 1
    assert len(seen[0]) == 20
    assert texts(hits) == [
        f"tea number {n}" for n in sorted((int(t.split()[-1]) for t in seen[0]), reverse=True)[:3]
    ]
    assert hits[0].score == pytest.approx(1.0)
    (part,) = hits[0].explain().parts
    assert (part.name, part.weight) == ("rerank", 1.0)
    assert [step.name for step in hits[0].explain().steps] == ["relevance", "rerank"]
    assert all(hit.exact for hit in hits)  # what was read is not decoded again


def test_a_vector_is_searched_in_place_of_the_query(ann: Scope) -> None:
    ann.remember(["a", "b", "c"])
    vector = ann.codec.index_vectors(ann.codec.encode(["b"]))[0].numpy()
    hit = ann.recall("", k=1, ranking="latent", vector=vector)[0]
    assert (hit.text, hit.score) == ("b", pytest.approx(1.0, abs=1e-6))
    assert ann.recall("a", k=1, ranking="latent", vector=vector.tolist())[0].text == "b"
    for wrong in ([1.0, 2.0], ["a"] * 8, [float("nan")] * 8):
        with pytest.raises(InvalidArgument, match="vector"):
            ann.recall("a", vector=wrong)


SCORED = st.fixed_dictionaries(
    {},
    optional={
        "recency": st.builds(
            lambda days, weight: Recency(days * DAY, weight, NOW), st.integers(1, 400), st.floats(0, 0.5)
        ),
        "importance": st.floats(0, 0.5),
        "decay": st.builds(
            lambda days, weight: Decay(days * DAY, weight), st.integers(1, 400), st.floats(0, 1)
        ),
        "diversity": st.floats(0, 1),
        "neighbours": st.integers(0, 2),
        "ranking": st.sampled_from(["hybrid", "latent", "lexical"]),
        "rerank": st.just(lambda query, given: [len(text) / 100 for text in given]),
        "trusted_only": st.booleans(),
    },
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCORED, st.integers(1, 6))
def test_scores_are_the_sums_of_their_parts_and_places_those_of_the_last_step(
    filled: Scope, options: RecallOptions, k: int
) -> None:
    hits = filled.recall("red apples in a green house", k, **options)
    own = [hit for hit in hits if hit.beside is None]
    assert len(own) <= k
    for place, hit in enumerate(hits, 1):
        why = hit.explain()
        assert 0 <= hit.score <= 1
        assert hit.score == pytest.approx(sum(part.contribution for part in why.parts), abs=1e-4)
        assert why.steps[0].name == "relevance"
        assert why.steps[-1].place == place
        assert str(why).startswith(f"score {hit.score:.3f}\n")
    if not options.get("diversity"):
        scores = [hit.score for hit in own]
        assert scores == sorted(scores, reverse=True)


@pytest.fixture
def filled(ann: Scope) -> Scope:
    words = "red green apples pears in a house on the hill".split()
    rng = np.random.default_rng(0)
    n = 30
    ann.remember(
        [" ".join(rng.choice(words, 5)) for _ in range(n)],
        session=[f"s{i % 3}" for i in range(n)],
        role=["user" if i % 2 else "tool" for i in range(n)],
        occurred_at=[NOW - int(rng.integers(400)) * DAY for _ in range(n)],
        importance=[None if i % 4 else float(rng.random()) for i in range(n)],
    )
    return ann


@pytest.mark.parametrize(
    "options",
    [
        {"recency": 7},
        {"recency": timedelta(0)},
        {"recency": DAY, "importance": 0.9},  # together more than the whole
        {"importance": -0.1},
        {"importance": True},
        {"diversity": 1.5},
        {"diversity": "much"},
        {"neighbours": -1},
        {"neighbours": 11},
        {"neighbours": 1.5},
        {"trusted_only": "user"},
        {"rerank": "cross-encoder"},
        {"rerank": lambda query, given: [0.5]},
        {"rerank": lambda query, given: [float("nan")] * len(given)},
        {"decay": 3},
    ],
)
def test_a_wrong_option_is_one_clear_error(ann: Scope, options: dict[str, object]) -> None:
    ann.remember(["tea", "tea", "tea"])
    with pytest.raises(InvalidArgument):
        ann.recall("tea", **options)  # type: ignore[arg-type]


def test_the_options_type_names_all_that_recall_takes() -> None:
    import inspect

    named = {
        name for name, p in inspect.signature(Scope.recall).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert named - {"where"} == set(RecallOptions.__annotations__)
    with pytest.raises(InvalidArgument, match="no option 'recentcy'"):
        check_options({"recentcy": 1})


async def test_the_async_twin_takes_the_same_and_decodes(ann: Scope) -> None:
    await ann.aremember(["tea", "coffee"], session="s")
    hits = await ann.arecall("tea", k=1, neighbours=1, importance=0.2)
    assert [(hit.text, hit.exact) for hit in hits] == [("tea", True), ("coffee", True)]


def test_answers_take_the_options_of_recall(ann: Scope) -> None:
    ann.remember("The key is under the mat.", role="tool")
    ann.remember("The key is on the hook.", role="user")
    assert ann.answer("Where is the key?", trusted_only=True).text == "The key is on the hook."


def test_decay_is_a_part_that_takes_away(ann: Scope) -> None:
    ann.remember("tea")
    plain = ann.recall("tea")[0]
    faded = ann.recall("tea", decay=Decay(timedelta(microseconds=1), 1.0))[0]
    assert faded.score < plain.score
    last = faded.explain().parts[-1]
    assert (last.name, last.weight) == ("decay", 1.0)
    assert last.contribution == pytest.approx(faded.score - plain.score, abs=1e-5)
