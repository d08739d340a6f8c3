"""The conversation written for this project is sound, and its questions can be answered from it."""

import json
from collections import Counter
from datetime import datetime, timedelta

import pytest

from nextmem_agents.evaluation.locomo import Conversation, Question, default_conversation, load_locomo
from nextmem_agents.evaluation.metrics import _stems

CONVERSATION: Conversation = load_locomo(default_conversation())[0]
TEXTS = {turn.id: turn.text for turn in CONVERSATION.turns}
DATES = {turn.id: session.date for session in CONVERSATION.sessions for turn in session.turns}


def of_category(category: int) -> list[Question]:
    return [question for question in CONVERSATION.questions if question.category == category]


def test_it_is_long_enough_to_need_a_memory() -> None:
    dates = [session.date for session in CONVERSATION.sessions]

    assert len(dates) == 6
    assert dates == sorted(set(dates))
    assert dates[-1] - dates[0] > timedelta(days=180)
    assert {date.year for date in dates} == {2025}
    assert 84 <= len(CONVERSATION.turns) <= 100


def test_turns_are_chat_messages() -> None:
    assert {turn.speaker for turn in CONVERSATION.turns} == set(CONVERSATION.speakers)
    for turn in CONVERSATION.turns:
        assert turn.text == turn.text.strip()
        assert 10 <= len(turn.text.encode()) <= 256
    assert len(set(TEXTS.values())) == len(TEXTS)
    assert any(turn.caption for turn in CONVERSATION.turns)


def test_it_holds_what_exact_recall_must_survive() -> None:
    whole = "\n".join(TEXTS.values())
    for sample in ("QF7R2M", "nora.pascoe@example.com", "£1,450", "千鳥", "トマシュ", "Bolesław", "😂"):
        assert sample in whole


def test_turn_ids_say_session_and_position() -> None:
    for number, session in enumerate(CONVERSATION.sessions, start=1):
        assert session.name == f"session_{number}"
        assert [turn.id for turn in session.turns] == [
            f"D{number}:{i + 1}" for i in range(len(session.turns))
        ]


def test_the_file_itself_is_in_canonical_form() -> None:
    # the loader would mend irregular evidence, double ids apart; our own file needs no mending
    [item] = json.loads(default_conversation().read_text("utf-8"))
    for entry, question in zip(item["qa"], CONVERSATION.questions, strict=True):
        assert tuple(entry["evidence"]) == question.evidence
        assert question.evidence
        assert not question.unresolved
        assert ("adversarial_answer" in entry) is (entry["category"] == 5) is ("answer" not in entry)


def test_questions_cover_the_categories() -> None:
    assert Counter(question.category for question in CONVERSATION.questions) == {1: 4, 2: 5, 4: 9, 5: 2}
    assert len({question.text for question in CONVERSATION.questions}) == 20


@pytest.mark.parametrize("question", of_category(4), ids=lambda question: question.text)
def test_single_hop_answers_stand_in_their_evidence(question: Question) -> None:
    [evidence] = question.evidence
    assert question.answer is not None

    missing = set(_stems(question.answer)) - set(_stems(TEXTS[evidence]))
    assert missing <= {"is", "to"}


def test_multi_hop_questions_need_several_sessions() -> None:
    for question in of_category(1):
        assert len({DATES[turn] for turn in question.evidence}) > 1


@pytest.mark.parametrize(
    ("evidence", "phrase", "days_before"),
    [
        ("D1:3", "yesterday", 1),
        ("D3:12", "on Tuesday", 2),  # the session is on a Thursday
        ("D4:1", "a week ago yesterday", 8),
        ("D5:11", "yesterday", 1),
        ("D6:1", "two weeks ago yesterday", 15),
    ],
)
def test_temporal_answers_follow_from_the_session_date(evidence: str, phrase: str, days_before: int) -> None:
    [question] = [question for question in of_category(2) if evidence in question.evidence]
    assert question.answer is not None

    assert phrase in TEXTS[evidence]
    answer = datetime.strptime(question.answer, "%d %B %Y").date()
    assert answer == (DATES[evidence] - timedelta(days=days_before)).date()


def test_weekdays_that_the_speakers_name_are_right() -> None:
    weekdays = [f"{session.date:%a}" for session in CONVERSATION.sessions]
    assert weekdays == ["Sun", "Sat", "Thu", "Sun", "Sat", "Sun"]


def test_adversarial_answers_are_lures_from_the_evidence() -> None:
    for question in of_category(5):
        assert question.answer is None
        assert question.adversarial_answer is not None
        lure = set(_stems(question.adversarial_answer))
        assert any(lure <= set(_stems(TEXTS[turn])) for turn in question.evidence)
