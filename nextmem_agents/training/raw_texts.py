"""Texts out of what people have: plain text, chat logs, JSON and JSON Lines."""

from __future__ import annotations

import json
import lzma
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nextmem_agents.errors import DataError

Kind = Literal["text", "dialogue"]

ENDINGS = (".txt", ".md", ".json", ".jsonl", ".json.xz", ".jsonl.xz")

_SPEAKER = re.compile(r"^[\w .'-]{1,30}: \S")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufeff]")
_BLANK_LINES = re.compile(r"\n{3,}")
_NAMES = ("role", "speaker", "name", "from", "author", "user")
_SPEAKING = ("role", "speaker", "from")
_CONTENTS = ("text", "content", "value", "message")
_CONVERSATION = ("conversation_id", "dialogue_id", "dialog_id", "thread_id", "session_id")
_NESTED = ("messages", "turns", "conversation", "conversations", "dialogue", "dialog", "sessions", "data")


@dataclass(frozen=True)
class RawText:
    """A text, or a conversation as lines ``Name: text``, a turn to a line."""

    text: str
    kind: Kind


def normalised(text: str) -> str:
    r"""NFC, Unix line ends, no control characters, no space at the ends of lines, one empty line at most.

    >>> normalised("Cafe\u0301 \r\n\r\n\r\n\r\nopen\x00  ")
    'Café\n\nopen'
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    lines = (line.rstrip() for line in _CONTROL.sub("", text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def raw_texts(path: Path) -> Iterator[RawText]:
    """Texts of a file, normalised, none empty.

    ``.txt`` and ``.md``: the parts between empty lines; one whose lines begin with ``Name: `` is a conversation.
    ``.jsonl``: a line is a string, ``{"text"}``, a message ``{"role", "content"}`` (consecutive ones make one
    conversation) or ``{"messages": […]}``. ``.json``: any of these, or lists of them. Either may end in ``.xz``.

    Raises:
        DataError: a missing file, another ending, or a line that cannot be read, with its number.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if not path.name.endswith(ENDINGS):
        raise DataError(f"{path}: give one of {', '.join(ENDINGS)}")
    if path.suffix in (".txt", ".md"):
        found = _plain(path)
    elif path.name.endswith((".json", ".json.xz")):
        try:
            value = json.loads(b"\n".join(line for _, line in _lines(path)))
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
        found = _of_value(value, str(path))
    else:
        found = _json_lines(path)
    for raw in found:
        if text := normalised(raw.text):
            yield RawText(text, raw.kind)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}, after line {number}: cannot be read: {error}") from error


def _plain(path: Path) -> Iterator[RawText]:
    block: list[str] = []
    for number, line in _lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})"
            ) from error
        if text.strip():
            block.append(text)
        elif block:
            yield _block(block)
            block = []
    if block:
        yield _block(block)


def _block(lines: list[str]) -> RawText:
    named = sum(bool(_SPEAKER.match(line)) for line in lines)
    if named < 2 or not _SPEAKER.match(lines[0]) or 2 * named < len(lines):
        return RawText("\n".join(lines), "text")
    turns: list[str] = []
    for line in lines:
        if _SPEAKER.match(line):
            turns.append(line)
        else:  # a message of several lines
            turns[-1] += " " + line.strip()
    return RawText("\n".join(turns), "dialogue")


def _json_lines(path: Path) -> Iterator[RawText]:
    turns: list[str] = []
    conversation: Any = None  # whose turns they are
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: no JSON: {error}") from error
        if _is_message(value):
            among = next((value[k] for k in _CONVERSATION if k in value), None)
            if turns and among != conversation:
                yield RawText("\n".join(turns), "dialogue")
                turns = []
            conversation = among
            turns += _turn(value, where)
            continue
        if turns:
            yield RawText("\n".join(turns), "dialogue")
            turns = []
        yield from _of_value(value, where)
    if turns:
        yield RawText("\n".join(turns), "dialogue")


def _of_value(value: Any, where: str) -> Iterator[RawText]:
    if isinstance(value, str):
        yield RawText(value, "text")
    elif isinstance(value, list) and value and all(map(_is_message, value)):
        turns = [turn for message in value for turn in _turn(message, where)]
        yield RawText("\n".join(turns), "dialogue")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _of_value(item, f"{where}, item {i}")
    elif isinstance(value, dict) and isinstance(value.get("text"), str):
        dialogue = value.get("kind") == "dialogue"
        yield RawText(value["text"], "dialogue" if dialogue else "text")
    elif isinstance(value, dict) and (key := next((k for k in _NESTED if k in value), None)):
        yield from _of_value(value[key], f"{where}, {key}")
    else:
        raise DataError(
            f'{where}: neither a text, nor {{"text"}}, nor messages of {{"role", "content"}}: '
            f"{json.dumps(value, ensure_ascii=False)[:80]}"
        )


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or "messages" in value:
        return False
    # A document has a "text" and may have an author, too; who says something is a role, and what is said a content.
    said = _CONTENTS if any(isinstance(value.get(k), str) for k in _SPEAKING) else _CONTENTS[1:]
    return any(isinstance(value.get(k), str) for k in _NAMES) and any(k in value for k in said)


def _turn(message: dict[str, Any], where: str) -> list[str]:
    """``Name: text`` on one line; nothing for a message without text, such as a call of a tool."""
    name = next(message[k] for k in _NAMES if isinstance(message.get(k), str))
    content = next(message[k] for k in _CONTENTS if k in message)
    if isinstance(content, list):  # OpenAI's parts
        content = " ".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise DataError(f"{where}: a message's content is text, not {json.dumps(content)[:60]}")
    text = " ".join((content or "").split())
    return [f"{name[:1].upper()}{name[1:]}: {text}"] if text else []
