"""LongMemEval histories: sessions between a user and an assistant, and one question about each history.

Structure and data: Wu et al., "LongMemEval: Benchmarking Chat Assistants on Long-Term Interactive Memory"
(arXiv 2410.10813), https://github.com/xiaowu0162/LongMemEval (MIT; not part of this package). The published files
(``longmemeval_oracle.json``, ``longmemeval_s.json``, ``longmemeval_m.json``) keep a question's sessions in three lists
that belong together; files that keep each session as one object are read too.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.benchmark import Benchmark, History, Query, file_hash
from nextmem_agents.evaluation.locomo import Session, Turn
from nextmem_agents.evaluation.metrics import squad_normalise, token_f1
from nextmem_agents.text_files import open_text

TYPES = (
    "single-session-user",
    "single-session-assistant",
    "single-session-preference",
    "multi-session",
    "temporal-reasoning",
    "knowledge-update",
)
ABSTENTION = "abstention"
_REFUSALS = re.compile(
    r"no information|not mention|did not|don't know|do not know|no memory|unknown|not available|cannot|can't"
)
# As published, "2023/05/20 (Sat) 05:13"; mirrors of the data write ISO 8601.
_DATE = re.compile(r"(\d{4})/(\d{2})/(\d{2})(?:\s*\([A-Za-z]+\))?\s*(\d{2}):(\d{2})")


def longmemeval_benchmark(path: Path) -> Benchmark:
    """LongMemEval's questions, each with its history.

    The benchmark's official score is an LLM judge's (see :mod:`nextmem_agents.evaluation.judge`); what stands in its
    place without one is SQuAD's token F1, and for an abstention question (an id that ends in ``_abs``) whether the
    reply refuses, which is reported apart. Evidence is the sessions that hold the answer.

    Raises:
        DataError: the file is missing or malformed, naming the item.
    """
    items = _items(path)
    histories = tuple(_history(item, f"{path}: item {i}") for i, item in enumerate(items))
    if len({history.id for history in histories}) < len(histories):
        raise DataError(f"{path}: two items have the same question_id")
    present = {query.category for history in histories for query in history.queries}
    return Benchmark(
        name="LongMemEval",
        source=path.name,
        sha256=file_hash(path),
        histories=histories,
        categories=tuple(name for name in (*TYPES, ABSTENTION) if name in present),
        metric="token F1",
        score=score,
        apart=frozenset({ABSTENTION}),
        evidence_of="session",
    )


def score(query: Query, reply: str) -> float:
    """Token F1 after SQuAD's normalisation; for an abstention question, whether the reply refuses.

    >>> score(Query("1", "How long?", "multi-session", ("43 days",)), "About 43 days.")
    0.8
    """
    if query.category == ABSTENTION:
        return float(bool(_REFUSALS.search(reply.lower())))
    found = squad_normalise(reply).split()
    return max((token_f1(found, squad_normalise(answer).split()) for answer in query.answers), default=0.0)


@dataclass(frozen=True)
class ListedSession:
    """A session as a file lists it."""

    name: str | None
    date: str
    turns: list[Any]


def _items(path: Path) -> list[Any]:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; LongMemEval is at https://github.com/xiaowu0162/LongMemEval "
            "(longmemeval_s.json, longmemeval_oracle.json)"
        )
    try:
        with open_text(path) as file:
            data = json.load(file)
    except (OSError, ValueError, lzma.LZMAError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(data, list) or not data:
        raise DataError(f"{path}: LongMemEval's format is a list of items")
    return data


def _history(item: Any, where: str) -> History:
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object")
    id_, kind = _text(item, "question_id", where), _text(item, "question_type", where)
    where = f"{where} ({id_})"
    if kind not in TYPES:
        raise DataError(f"{where}.question_type: {kind!r} is none of {', '.join(TYPES)}")
    dated: list[tuple[datetime, Session]] = []
    marked: list[str] = []
    for i, listed in enumerate(listed_sessions(item, where)):
        name = listed.name or f"session-{i + 1:03d}"
        # A haystack may hold a session twice.
        if any(name == session.name for _, session in dated):
            name = f"{name}-{i + 1}"
        date = _date(listed.date, f"{where}.session {i}.date")
        if turns := tuple(_turns(name, listed)):
            dated.append((date, Session(name, date, turns)))
            if any(isinstance(turn, dict) and turn.get("has_answer") for turn in listed.turns):
                marked.append(name)
    sessions = [session for _, session in sorted(dated, key=lambda pair: pair[0])]
    if not sessions:
        raise DataError(
            f"{where}: no session with turns; a file without histories cannot be read by an agent"
        )
    names = {session.name for session in sessions}
    refused = id_.endswith("_abs")
    evidence = tuple(name for name in item.get("answer_session_ids") or () if name in names)
    asked = item.get("question_date")
    query = Query(
        id=id_,
        text=_text(item, "question", where),
        category=ABSTENTION if refused else kind,
        # The explanation of an abstention question is no answer, but a judge wants to read it.
        answers=(str(item.get("answer", "")),),
        # Some mirrors lost the sessions' names, but still mark the turns.
        evidence=() if refused else evidence or tuple(marked),
        asked_at=_date(asked, f"{where}.question_date") if isinstance(asked, str) else None,
    )
    return History(id_, tuple(sessions), (query,))


def listed_sessions(item: dict[str, Any], where: str) -> Iterator[ListedSession]:
    """The sessions of an item, as published (``haystack_sessions``) or as the mirror has them (``sessions``).

    Raises:
        DataError: it has neither, or they are malformed.
    """
    if "haystack_sessions" in item:
        lists = [item.get(f"haystack_{name}") for name in ("session_ids", "dates", "sessions")]
        if not all(isinstance(each, list) for each in lists) or len({len(each or ()) for each in lists}) != 1:
            raise DataError(
                f"{where}: haystack_session_ids, haystack_dates and haystack_sessions must be lists of one length"
            )
        for name, date, turns in zip(*(each or () for each in lists), strict=True):
            yield ListedSession(name, str(date), turns if isinstance(turns, list) else [])
        return
    found = item.get("sessions")
    if not isinstance(found, list):
        raise DataError(f"{where}: neither haystack_sessions nor sessions")
    for i, each in enumerate(found):
        if not isinstance(each, dict) or not isinstance(each.get("turns"), list):
            raise DataError(f"{where}.sessions[{i}]: no turns; a file of snippets holds no histories to read")
        yield ListedSession(each.get("session_id"), str(each.get("date")), each["turns"])


def _turns(session: str, listed: ListedSession) -> Iterator[Turn]:
    for i, turn in enumerate(listed.turns):
        if text := content_of(turn):
            yield Turn(f"{session}:{i}", str(turn.get("role", "user")), text)


def content_of(turn: Any) -> str:
    """What a turn says; empty where it says nothing."""
    content = turn.get("content") if isinstance(turn, dict) else None
    return content.strip() if isinstance(content, str) else ""


def _date(text: str, where: str) -> datetime:
    try:
        if match := _DATE.fullmatch(text.strip()):
            return datetime(*(int(part) for part in match.groups()), tzinfo=timezone.utc)  # type: ignore[misc, arg-type]
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is no date: {error}") from error
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _text(item: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(item.get(key), str):
        raise DataError(f"{where}.{key}: missing, or no text")
    return str(item[key])
