import json
import lzma
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation import locomo
from nextmem_agents.evaluation.locomo import Question, Session, Turn, default_conversation, load_locomo

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval" / "locomo10.json.xz"


def item(**changes: Any) -> dict[str, Any]:
    """A small sound item, with some of its keys replaced."""
    conversation = {
        "speaker_a": "Ada",
        "speaker_b": "Ben",
        "session_1_date_time": "12:05 am on 1 March, 2024",
        "session_1": [
            {"speaker": "Ada", "dia_id": "D1:1", "text": "I planted a quince."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "Look.", "blip_caption": "a quince", "query": "q"},
        ],
        "session_10_date_time": "1:56 pm on 8 May, 2024",
        "session_10": [{"speaker": "Ada", "dia_id": "D10:1", "text": "It has 3 leaves."}],
        "session_2_date_time": "12:30 pm on 2 March, 2024",
        "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "Water it."}],
    }
    sound = {"sample_id": "garden", "conversation": conversation, "qa": [question()]}
    return {**sound, **changes}


def question(**changes: Any) -> dict[str, Any]:
    return {"question": "How many leaves?", "answer": "3", "evidence": ["D10:1"], "category": 4, **changes}


def write(folder: Path, content: Any, name: str = "locomo.json") -> Path:
    path = folder / name
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)
    return path


def load_question(folder: Path, **changes: Any) -> Question:
    [conversation] = load_locomo(write(folder, [item(qa=[question(**changes)])]))
    return conversation.questions[0]


def with_conversation(**changes: Any) -> list[dict[str, Any]]:
    return [item(conversation={**item()["conversation"], **changes})]


@pytest.mark.parametrize("name", ["locomo.json", "locomo.json.xz"])
def test_a_file_is_read_plain_or_compressed(tmp_path: Path, name: str) -> None:
    [conversation] = load_locomo(str(write(tmp_path, [item()], name)))

    assert conversation.id == "garden"
    assert conversation.speakers == ("Ada", "Ben")
    assert conversation.sessions[0] == Session(
        "session_1",
        datetime(2024, 3, 1, 0, 5, tzinfo=timezone.utc),
        (Turn("D1:1", "Ada", "I planted a quince."), Turn("D1:2", "Ben", "Look.", "a quince")),
    )
    assert conversation.questions == (Question("How many leaves?", "3", ("D10:1",), 4),)


def test_sessions_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    [conversation] = load_locomo(write(tmp_path, [item()]))

    assert [session.name for session in conversation.sessions] == ["session_1", "session_2", "session_10"]
    assert [turn.id for turn in conversation.turns] == ["D1:1", "D1:2", "D2:1", "D10:1"]


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))
def test_every_minute_of_the_calendar_is_read_as_it_was_written(moment: datetime) -> None:
    month = locomo._MONTHS[moment.month - 1].capitalize()
    half = "pm" if moment.hour >= 12 else "am"
    written = (
        f"{(moment.hour - 1) % 12 + 1}:{moment.minute:02d} {half} on {moment.day} {month}, {moment.year:04d}"
    )
    expected = moment.replace(second=0, microsecond=0, tzinfo=timezone.utc)

    assert locomo._date(written, "here") == expected


@pytest.mark.parametrize("leftover", [{"session_3": []}, {}, {"session_3": [], "session_3_date_time": "?"}])
def test_sessions_without_turns_are_left_out(tmp_path: Path, leftover: dict[str, Any]) -> None:
    content = with_conversation(session_4_date_time="9:00 am on 4 March, 2024", **leftover)

    assert len(load_locomo(write(tmp_path, content))[0].sessions) == 3


@pytest.mark.parametrize(
    ("written", "evidence", "unresolved"),
    [
        (["D1:1; D2:1"], ("D1:1", "D2:1"), ()),
        (["D1:1 D10:1 D2:1"], ("D1:1", "D10:1", "D2:1"), ()),
        (["D:10:1"], ("D10:1",), ()),
        (["D01:02"], ("D1:2",), ()),
        (["D2:1", "D2:1"], ("D2:1",), ()),
        (["D1:1", "D", "D7:7"], ("D1:1",), ("D", "D7:7")),
        ([" ; "], (), ()),
        ([], (), ()),
    ],
)
def test_evidence_names_turns_that_exist(
    tmp_path: Path, written: list[str], evidence: tuple[str, ...], unresolved: tuple[str, ...]
) -> None:
    loaded = load_question(tmp_path, evidence=written)

    assert (loaded.evidence, loaded.unresolved) == (evidence, unresolved)


@pytest.mark.parametrize(("written", "answer"), [("May", "May"), (2022, "2022"), (1.5, "1.5")])
def test_answers_are_text(tmp_path: Path, written: Any, answer: str) -> None:
    assert load_question(tmp_path, answer=written).answer == answer


def test_adversarial_questions_may_have_no_answer(tmp_path: Path) -> None:
    entry = {"question": "Which car?", "evidence": ["D1:1"], "category": 5, "adversarial_answer": "a van"}
    [conversation] = load_locomo(write(tmp_path, [item(qa=[entry])]))

    assert conversation.questions == (Question("Which car?", None, ("D1:1",), 5, "a van"),)


TURN = {"speaker": "Ada", "dia_id": "D3:1", "text": "Hello."}
DATE = "9:00 am on 3 March, 2024"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "list of items, found an object"),
        (["x"], "item 0: expected an object, found a string"),
        ([item(), item()], "item 1.sample_id: 'garden' is taken"),
        ([item(sample_id=7)], "item 0.sample_id: expected a string, found a number"),
        ([item(conversation=None)], r"item 0 \(garden\).conversation: expected an object, found null"),
        ([item(conversation={"speaker_a": "Ada"})], "conversation.speaker_b: missing"),
        ([item(conversation={"speaker_a": "A", "speaker_b": "B"})], "conversation: no session_N with turns"),
        (with_conversation(session_3={}, session_3_date_time=DATE), "session_3: expected a list"),
        (with_conversation(session_3=[TURN]), "session_3_date_time: missing"),
        (
            with_conversation(session_3=[TURN], session_3_date_time="3 March"),
            "session_3_date_time: '3 March'",
        ),
        (
            with_conversation(session_1_date_time="9:00 am on 31 June, 2024"),
            "'9:00 am on 31 June, 2024' is no",
        ),
        (with_conversation(session_1_date_time="13:00 pm on 3 June, 2024"), "is not of the form"),
        (with_conversation(session_2=["x"]), r"session_2\[0\]: expected an object"),
        (with_conversation(session_2=[{**TURN, "dia_id": "3"}]), r"session_2\[0\].dia_id: '3' is not"),
        (
            with_conversation(session_2=[{**TURN, "dia_id": "D1:2"}]),
            r"session_2\[0\].dia_id: 'D1:2' is taken",
        ),
        (with_conversation(session_2=[{**TURN, "text": None}]), r"session_2\[0\].text: expected a string"),
        (
            with_conversation(session_2=[{**TURN, "blip_caption": 1}]),
            r"session_2\[0\].blip_caption: expected",
        ),
        ([item(qa={})], "qa: expected a list"),
        ([item(qa=[question(category=6)])], r"qa\[0\].category: 6"),
        ([item(qa=[question(category=True)])], r"qa\[0\].category: expected a number, found true or false"),
        ([item(qa=[question(), question(answer=None)])], r"qa\[1\].answer: expected a string, found null"),
        ([item(qa=[question(answer=["3"])])], r"qa\[0\].answer: expected a string, found a list"),
        ([item(qa=[question(evidence="D1:1")])], r"qa\[0\].evidence: expected a list"),
        ([item(qa=[question(evidence=[1])])], r"qa\[0\].evidence\[0\]: expected a string"),
        ([item(qa=[question(adversarial_answer=1)])], r"qa\[0\].adversarial_answer: expected a string"),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as raised:
        load_locomo(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="not a readable JSON file"):
        load_locomo(write(tmp_path, content))


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [item()], "locomo.json.xz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a readable JSON file"):
        load_locomo(path)


def test_a_missing_file_is_refused_with_the_place_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; .*snap-research/locomo"):
        load_locomo(tmp_path / "locomo10.json")
    with pytest.raises(DataError, match="not a readable"):
        load_locomo(tmp_path)


def test_the_packaged_conversation_has_a_path() -> None:
    assert default_conversation().is_file()


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason=f"LoCoMo itself is not part of the repository: {SHARED}")
def test_the_published_conversations_are_read_whole() -> None:
    conversations = load_locomo(SHARED)

    assert [(c.id, len(c.sessions), len(c.turns), len(c.questions)) for c in conversations] == [
        ("conv-26", 19, 419, 199),
        ("conv-30", 19, 369, 105),
        ("conv-41", 32, 663, 193),
        ("conv-42", 29, 629, 260),
        ("conv-43", 29, 680, 242),
        ("conv-47", 31, 689, 190),
        ("conv-49", 25, 509, 196),
    ]
    for conversation in conversations:
        dates = [session.date for session in conversation.sessions]
        assert dates == sorted(dates)
        assert {turn.speaker for turn in conversation.turns} == set(conversation.speakers)
    questions = [question for conversation in conversations for question in conversation.questions]
    assert [q.unresolved for q in questions if q.unresolved] == [("D10:19",), ("D",), ("D4:36",)]
    assert sum(not q.evidence for q in questions) == 2
    assert all(q.answer or q.category == 5 for q in questions)
