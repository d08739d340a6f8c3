"""LongMemEval is read as it was published, and as mirrors keep it."""

from __future__ import annotations

import json
import lzma
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.benchmark import Query
from nextmem_agents.evaluation.longmemeval import longmemeval_benchmark, score

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval" / "longmemeval_full.json.xz"
FIRST = [{"role": "user", "content": "My cat is Miso."}, {"role": "assistant", "content": "Noted."}]
SECOND = [
    {"role": "user", "content": "I run 5 km now.", "has_answer": True},
    {"role": "assistant", "content": " "},
]


def published(**changes: Any) -> dict[str, Any]:
    return {
        "question_id": "q1",
        "question_type": "knowledge-update",
        "question": "How far do I run?",
        "answer": "5 km",
        "question_date": "2023/05/30 (Tue) 23:40",
        "haystack_session_ids": ["answer_1", "other"],
        "haystack_dates": ["2023/05/21 (Sun) 08:00", "2023/05/20 (Sat) 05:13"],
        "haystack_sessions": [SECOND, FIRST],
        "answer_session_ids": ["answer_1"],
        **changes,
    }


def mirrored(**changes: Any) -> dict[str, Any]:
    sessions = [
        {"session_id": None, "date": "2023-05-21T08:00:00+00:00", "turns": SECOND},
        {"session_id": None, "date": "2023-05-20T05:13:00+00:00", "turns": FIRST},
    ]
    kept = {key: value for key, value in published().items() if not key.startswith("haystack")}
    return {**kept, "answer_session_ids": [], "sessions": sessions, **changes}


def write(folder: Path, *items: Any, name: str = "longmemeval.json") -> Path:
    path = folder / name
    data = json.dumps(list(items)).encode()
    path.write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    return path


def test_the_published_form_is_read_in_the_order_of_dates(tmp_path: Path) -> None:
    benchmark = longmemeval_benchmark(write(tmp_path, published(), name="s.json.xz"))
    [history] = benchmark.histories
    assert [session.name for session in history.sessions] == ["other", "answer_1"]
    assert history.sessions[0].date == datetime(2023, 5, 20, 5, 13, tzinfo=timezone.utc)
    assert [turn.id for turn in history.sessions[0].turns] == ["other:0", "other:1"]
    assert len(history.sessions[1].turns) == 1  # a turn without text is none
    assert history.queries == (
        Query(
            "q1",
            "How far do I run?",
            "knowledge-update",
            ("5 km",),
            ("answer_1",),
            datetime(2023, 5, 30, 23, 40, tzinfo=timezone.utc),
        ),
    )


def test_a_mirror_without_session_names_is_read_by_its_marks(tmp_path: Path) -> None:
    [history] = longmemeval_benchmark(write(tmp_path, mirrored())).histories
    assert [session.name for session in history.sessions] == ["session-002", "session-001"]
    assert history.queries[0].evidence == ("session-001",)


def test_a_session_that_comes_twice_gets_two_names(tmp_path: Path) -> None:
    item = published(haystack_session_ids=["answer_1", "answer_1"])
    [history] = longmemeval_benchmark(write(tmp_path, item)).histories
    assert sorted(session.name for session in history.sessions) == ["answer_1", "answer_1-2"]


def test_abstention_stands_apart_and_has_no_evidence(tmp_path: Path) -> None:
    benchmark = longmemeval_benchmark(write(tmp_path, published(question_id="q2_abs")))
    [query] = benchmark.histories[0].queries
    assert query.category == "abstention"
    assert query.evidence == ()
    assert benchmark.apart == {"abstention"}
    assert benchmark.score(query, "You did not mention that.") == 1.0
    assert benchmark.score(query, "5 km") == 0.0


def test_the_score_is_token_f1() -> None:
    query = Query("1", "?", "multi-session", ("the blue bike",))
    assert score(query, "A blue bike!") == 1.0
    assert score(query, "") == 0.0


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("x", "item 0: expected an object"),
        (published(question_id=3), r"item 0.question_id: missing"),
        (published(question_type="riddle"), r"\(q1\).question_type: 'riddle' is none of"),
        (published(haystack_dates=[]), "must be lists of one length"),
        (published(haystack_dates=["yesterday", "today"]), "session 0.date: 'yesterday' is no date"),
        (published(haystack_sessions=[[], []]), "no session with turns"),
        (mirrored(sessions=None), "neither haystack_sessions nor sessions"),
        (mirrored(sessions=[{"session_id": "s", "snippet": "…"}]), r"sessions\[0\]: no turns"),
        (mirrored(question_date="soon"), "question_date: 'soon' is no date"),
    ],
)
def test_a_malformed_item_is_refused_with_its_place(tmp_path: Path, item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        longmemeval_benchmark(write(tmp_path, item))


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]"])
def test_what_is_no_list_of_items_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "l.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"JSON file|list of items"):
        longmemeval_benchmark(path)


def test_ids_are_unique_and_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same question_id"):
        longmemeval_benchmark(write(tmp_path, published(), published()))
    with pytest.raises(DataError, match=r"no such file; LongMemEval is at"):
        longmemeval_benchmark(tmp_path / "none.json")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason=f"LongMemEval itself is not part of the repository: {SHARED}")
def test_the_published_histories_are_read_whole() -> None:
    benchmark = longmemeval_benchmark(SHARED)
    assert benchmark.n_queries == 21
    assert max(len(history.sessions) for history in benchmark.histories) == 53
    for history in benchmark.histories:
        ids = [turn.id for session in history.sessions for turn in session.turns]
        assert len(ids) == len(set(ids))
