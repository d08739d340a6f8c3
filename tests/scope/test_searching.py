"""What makes a memory come first: its words and related ones, who spoke, when, and what was said around it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.scope import Scope


@pytest.fixture(scope="module")
def scope(codec: LatentCodec) -> Iterator[Scope]:
    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope("talk")
        spring, autumn = (datetime(2023, month, 7, 18, tzinfo=timezone.utc) for month in (5, 10))
        for session, when, turns in (
            (
                "s1",
                spring,
                [
                    ("Ann", "Did you get a new pet at last?"),
                    ("Bob", "Yes, since Tuesday, and she sleeps on my shoes."),
                    ("Ann", "I painted the harbour again."),
                    ("Bob", "I painted my fence."),
                ],
            ),
            (
                "s2",
                autumn,
                [
                    ("Ann", "We baked bread for the whole street."),
                    ("Bob", "Nothing much happened here."),
                    ("Ann", "I went to a concert with my sister."),
                ],
            ),
        ):
            scope.remember(
                [text for _, text in turns],
                session=session,
                role=[role for role, _ in turns],
                occurred_at=when,
            )
        yield scope


def test_the_speaker_who_is_named_comes_first(scope: Scope) -> None:
    for name, text in (("Ann", "I painted the harbour again."), ("Bob", "I painted my fence.")):
        hit = scope.recall(f"What did {name} paint?")[0]
        assert hit.text == text
        assert hit.parts.speaker == 1


def test_a_time_that_is_named_counts(scope: Scope) -> None:
    hit = scope.recall("What happened in October 2023?", 1)[0]
    assert hit.session == "s2"
    assert hit.parts.time == 1
    assert scope.recall("What happened?", 1)[0].parts.time is None


def test_the_answer_to_a_matching_question_is_found(scope: Scope) -> None:
    hits = scope.recall("Who has a pet?", 2)
    assert [hit.text for hit in hits] == [
        "Did you get a new pet at last?",
        "Yes, since Tuesday, and she sleeps on my shoes.",
    ]
    assert hits[1].parts.context


def test_a_word_of_like_meaning_is_found(scope: Scope) -> None:
    assert scope.recall("music", 1)[0].text == "I went to a concert with my sister."
    assert not scope.recall("music", ranking="lexical")


def test_a_filter_leaves_out_what_does_not_match(scope: Scope) -> None:
    hits = scope.recall("What did Bob paint?", 10, where={"role": "Ann"})
    assert {hit.role for hit in hits} == {"Ann"}


def test_the_best_memory_leads_to_the_one_that_answers_the_rest(memory: NextMem) -> None:
    scope = memory.scope("facts")
    scope.remember(
        [
            "Ann's brother Tobias Quill lives in Bergen.",
            "Tobias Quill plays the cello.",
            "The orchestra plays on Sunday.",
            "Which instrument is loudest? The organ.",
            "A brother of the order makes cheese.",
        ]
    )
    hits = scope.recall("What does Ann's brother play?", 3)
    assert hits[0].text == "Ann's brother Tobias Quill lives in Bergen."
    assert hits[1].text == "Tobias Quill plays the cello."
    assert hits[1].parts.linked == hits[0].parts.linked
    # Where it answers everything, nothing is open.
    assert scope.recall("Where does Tobias Quill live in Bergen?", 1)[0].parts.linked is None


def test_the_parts_add_up_to_the_score(scope: Scope) -> None:
    for hit in scope.recall("What did Ann paint in May 2023?", 10):
        parts = hit.parts.parts()
        assert sum(value * weight for value, weight in parts.values()) == pytest.approx(hit.score, abs=1e-5)
        assert set(parts) == {"lexical", "context", "around", "session", "speaker", "time", "latent"}
