"""LoCoMo conversations, read as they were published.

Structure and data: Maharana et al., "Evaluating Very Long-Term Conversational Memory of LLM Agents"
(arXiv 2402.17753), https://github.com/snap-research/locomo, file ``data/locomo10.json`` (CC BY-NC 4.0, not
part of this package). The package holds one conversation in the same structure that was written for it:
`default_conversation`.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from nextmem_agents.errors import DataError

__all__ = ["Conversation", "Question", "Session", "Turn", "default_conversation", "load_locomo"]

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
"""LoCoMo's question categories by their number."""

# Spelt out, because strptime reads month names in whatever locale the process has set
_MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_DATE = re.compile(r"(\d{1,2}):(\d{2})\s*([ap])m on (\d{1,2}) ([a-z]+),? (\d{4})", re.IGNORECASE)
_SESSION = re.compile(r"session_(\d+)")
_TURN_ID = re.compile(r"D:?0*(\d+):0*(\d+)")
_JSON_NAMES: dict[type, str] = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
    type(None): "null",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Turn:
    """What one speaker said at once; ``caption`` describes the picture sent along with it, if any."""

    id: str
    speaker: str
    text: str
    caption: str | None = None


@dataclass(frozen=True)
class Session:
    """The turns of one sitting; LoCoMo names no time zone, so ``date`` is given in UTC. Passages have no date."""

    name: str
    date: datetime | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Question:
    """A question about a conversation, with its gold answer.

    ``evidence`` holds the ids of turns that exist in the conversation, each once and in the file's order;
    what the file names beyond these stands in ``unresolved``. ``answer`` is None for the adversarial
    questions (category 5) that have none: ``adversarial_answer`` is the wrong answer they lure to.
    """

    text: str
    answer: str | None
    evidence: tuple[str, ...]
    category: int
    adversarial_answer: str | None = None
    unresolved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """One LoCoMo item: its sessions in order, and the questions asked about them."""

    id: str
    speakers: tuple[str, str]
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...] = ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns of all sessions, in order."""
        return tuple(turn for session in self.sessions for turn in session.turns)


def default_conversation() -> Path:
    """The path of the conversation that ships with the package, in LoCoMo's structure.

    >>> [harbour] = load_locomo(default_conversation())
    >>> harbour.speakers, len(harbour.sessions)
    (('Nora', 'Tomasz'), 6)
    """
    packaged = resources.files("nextmem_agents.evaluation") / "conversations" / "harbour.json"
    # as_file hands out the file itself when packages are plain folders, which torch needs them to be anyway
    with resources.as_file(packaged) as path:
        return path


def load_locomo(path: str | PathLike[str]) -> list[Conversation]:
    """Read the conversations of a LoCoMo file, plain (``.json``) or compressed (``.json.xz``).

    What is irregular in the published data is read for what it means: a session without turns is left out,
    whether its list is empty or only its date is there; evidence such as ``"D8:6; D9:17"``, ``"D:11:26"``
    or ``"D30:05"`` becomes proper turn ids; numbers given as answers become text.

    Raises `DataError` for a file that is missing or malformed, naming the item and the key.
    """
    path = Path(path)
    items = _parse(path)
    if not isinstance(items, list):
        raise DataError(f"{path}: LoCoMo's format is a list of items, found {_name(items)}")
    conversations = [_conversation(item, f"{path}: item {index}") for index, item in enumerate(items)]
    _distinct((c.id, f"{path}: item {index}.sample_id") for index, c in enumerate(conversations))
    return conversations


def _parse(path: Path) -> Any:
    try:
        content = path.read_bytes()
        return json.loads(lzma.decompress(content) if path.suffix == ".xz" else content)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; LoCoMo is data/locomo10.json of https://github.com/snap-research/locomo"
        ) from error
    except (OSError, lzma.LZMAError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error


def _conversation(item: Any, where: str) -> Conversation:
    item = _expect(item, dict, where)
    sample_id = _member(item, "sample_id", str, where)
    where = f"{where} ({sample_id})"
    record = _member(item, "conversation", dict, where)
    inside = f"{where}.conversation"
    speakers = _member(record, "speaker_a", str, inside), _member(record, "speaker_b", str, inside)
    listed = filter(None, map(_SESSION.fullmatch, record))
    numbers = sorted(int(match[1]) for match in listed if record[match[0]] != [])
    if not numbers:
        raise DataError(f"{inside}: no session_N with turns")
    sessions = tuple(_session(record, f"session_{number}", inside) for number in numbers)
    known = _distinct(
        (turn.id, f"{inside}.{session.name}[{index}].dia_id")
        for session in sessions
        for index, turn in enumerate(session.turns)
    )
    questions = tuple(
        _question(entry, known, f"{where}.qa[{index}]")
        for index, entry in enumerate(_member(item, "qa", list, where))
    )
    return Conversation(sample_id, speakers, sessions, questions)


def _session(record: dict[str, Any], name: str, where: str) -> Session:
    turns = _member(record, name, list, where)
    date_key = f"{name}_date_time"
    date = _date(_member(record, date_key, str, where), f"{where}.{date_key}")
    return Session(name, date, tuple(_turn(entry, f"{where}.{name}[{i}]") for i, entry in enumerate(turns)))


def _turn(entry: Any, where: str) -> Turn:
    entry = _expect(entry, dict, where)
    written = _member(entry, "dia_id", str, where)
    turn_id = _turn_id(written)
    if turn_id is None:
        raise DataError(f"{where}.dia_id: {written!r} is not of the form 'D1:3'")
    return Turn(
        turn_id,
        _member(entry, "speaker", str, where),
        _member(entry, "text", str, where),
        _optional(entry, "blip_caption", where),
    )


def _question(entry: Any, known: set[str], where: str) -> Question:
    entry = _expect(entry, dict, where)
    category = _member(entry, "category", int, where)
    if category not in CATEGORIES:
        raise DataError(f"{where}.category: {category} is not one of 1 to 5")
    answer = entry.get("answer")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    elif answer is not None or category != 5:
        answer = _member(entry, "answer", str, where)
    evidence, unresolved = _evidence(_member(entry, "evidence", list, where), known, f"{where}.evidence")
    return Question(
        _member(entry, "question", str, where),
        answer,
        evidence,
        category,
        _optional(entry, "adversarial_answer", where),
        unresolved,
    )


def _evidence(entries: list[Any], known: set[str], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # dicts as ordered sets: a turn named twice is still one turn to find
    resolved: dict[str, None] = {}
    unresolved: dict[str, None] = {}
    for index, entry in enumerate(entries):
        for part in re.split(r"[;,\s]+", _expect(entry, str, f"{where}[{index}]").strip(";, ")):
            turn_id = _turn_id(part)
            if turn_id in known:
                resolved[turn_id] = None
            elif part:
                unresolved[part] = None
    return tuple(resolved), tuple(unresolved)


def _distinct(named: Iterable[tuple[str, str]]) -> set[str]:
    seen: set[str] = set()
    for identifier, where in named:
        if identifier in seen:
            raise DataError(f"{where}: {identifier!r} is taken by an earlier one")
        seen.add(identifier)
    return seen


def _turn_id(text: str) -> str | None:
    match = _TURN_ID.fullmatch(text)
    return f"D{match[1]}:{match[2]}" if match else None


def _date(text: str, where: str) -> datetime:
    match = _DATE.fullmatch(text.strip())
    if match and match[5].lower() in _MONTHS and 1 <= int(match[1]) <= 12:
        hour = int(match[1]) % 12 + (12 if match[3].lower() == "p" else 0)
        month = _MONTHS.index(match[5].lower()) + 1
        try:
            return datetime(int(match[6]), month, int(match[4]), hour, int(match[2]), tzinfo=timezone.utc)
        except ValueError as error:
            raise DataError(f"{where}: {text!r} is no date: {error}") from error
    raise DataError(f"{where}: {text!r} is not of the form '1:56 pm on 8 May, 2023'")


def _member(record: dict[str, Any], key: str, kind: type[T], where: str) -> T:
    if key not in record:
        raise DataError(f"{where}.{key}: missing")
    return _expect(record[key], kind, f"{where}.{key}")


def _optional(record: dict[str, Any], key: str, where: str) -> str | None:
    return None if record.get(key) is None else _member(record, key, str, where)


def _expect(value: Any, kind: type[T], where: str) -> T:
    # bool is a subclass of int, yet `true` is no category
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: expected {_JSON_NAMES[kind]}, found {_name(value)}")
    return value


def _name(value: Any) -> str:
    return _JSON_NAMES.get(type(value), type(value).__name__)
