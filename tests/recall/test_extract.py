"""The reader that needs no model."""

from __future__ import annotations

from dataclasses import dataclass

from nextmem_agents.recall.extract import best_sentence


@dataclass
class Found:
    text: str
    score: float


def test_the_sentence_with_the_questions_words_is_quoted() -> None:
    hits = [Found("It rained. The key is under the mat! We left.", 0.5), Found("Keys are metal.", 0.4)]
    assert best_sentence("Where is the key?", hits) == "The key is under the mat!"


def test_a_better_scored_memory_wins_where_words_are_equal() -> None:
    assert (
        best_sentence("cats?", [Found("Cats sleep a lot.", 0.2), Found("Cats eat fish often.", 0.9)])
        == "Cats eat fish often."
    )


def test_a_remembered_question_is_no_answer_to_itself() -> None:
    hits = [Found("Where is the key?", 0.9), Found("The key is under the mat.", 0.3)]
    assert best_sentence("Where is the key?", hits) == "The key is under the mat."


def test_nothing_recalled_is_nothing_said() -> None:
    assert best_sentence("why?", []) == ""
    assert best_sentence("why?", [Found("!!!", 0.5)]) == "!!!"
