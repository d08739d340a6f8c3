"""Options that many commands share, and how their words become values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Annotated, Any

import typer

from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.errors import InvalidArgument


def _checked_scope(name: str) -> str:
    """A scope's name, looked at before a store is made for it."""
    from nextmem_agents.store.checks import check_scope

    return check_scope(name)


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH_OR_URL",
        envvar="NEXTMEM_HOME",
        help="Folder of the store, or a Chroma server's address (http://host:port); by default the user's data folder.",
    ),
]
ScopeOption = Annotated[
    str,
    typer.Option(
        "--scope",
        "-s",
        metavar="NAME",
        envvar="NEXTMEM_SCOPE",
        callback=_checked_scope,
        help="Whose memory: a user or tenant.",
    ),
]
CodecOption = Annotated[
    str,
    typer.Option(
        metavar="NAME_OR_FOLDER",
        envvar="NEXTMEM_CODEC",
        help="A shipped codec's name or a checkpoint folder.",
    ),
]
StoreCodecOption = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="NAME_OR_FOLDER",
        envvar="NEXTMEM_CODEC",
        help=f"A shipped codec's name or a checkpoint folder; by default what wrote the store, {DEFAULT_CODEC} for a "
        "new one.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON for scripts: an object, or one a line where there are several."),
]
TableJsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a Markdown table.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Only memories that match: role=user, year=2024, 'year={\"$gte\": 2020}'. Repeatable, all must match.",
    ),
]
KOption = Annotated[int, typer.Option("-k", min=1, help="Memories to recall.")]
AsOfOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="What held at this time (ISO 8601), as it was then.")
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def examples(*commands: str) -> str:
    """An epilog: one command a line, as typer sets it."""
    lines = "\n\n".join(f"$ nextmem {command}".replace("[", r"\[") for command in commands)
    return f"Examples:\n\n{lines}"


def texts_of(words: list[str], lines: bool) -> list[str]:
    """The texts given as words, ``-`` being standard input; with ``lines``, each line of it by itself."""
    found: list[list[str]] = []
    for word in words:
        if word != "-":
            found.append([word])
            continue
        try:
            read = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"standard input is no UTF-8 text: {error}") from error
        except AttributeError as error:  # Python has none where it was closed
            raise InvalidArgument("standard input is closed; nothing can be read from it") from error
        found.append(
            [line.removesuffix("\r") for line in read.split("\n") if line.strip()]
            if lines
            else [read.removesuffix("\n")]
        )
    return [*chain.from_iterable(found)]


def pairs(option: str, given: Sequence[str] | None) -> dict[str, Any]:
    """``key=value`` words as a mapping; values are read as JSON where they are JSON.

    Raises:
        InvalidArgument: a word without an equals sign, or one key twice.

    Examples:
        >>> pairs("--where", ["role=user", 'year={"$gte": 2020}', "done=true"])
        {'role': 'user', 'year': {'$gte': 2020}, 'done': True}
    """
    from nextmem_agents.store.checks import WORD_FIELDS

    found: dict[str, Any] = {}
    for word in given or ():
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise InvalidArgument(f"{option} takes KEY=VALUE, not {word!r}")
        if key.strip() in found:
            raise InvalidArgument(f"{option} names {key.strip()!r} twice")
        found[key.strip()] = (
            value if key.strip() in WORD_FIELDS and not value.startswith("{") else _value(value)
        )
    return found


def _value(word: str) -> Any:
    try:
        value = json.loads(word)
    except (ValueError, RecursionError):
        return word
    return word if value is None else value


def duration(option: str, word: str | None) -> timedelta | None:
    """A span such as ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``.

    Examples:
        >>> duration("--ttl", "7d")
        datetime.timedelta(days=7)
    """
    if word is None:
        return None
    found = _DURATION.fullmatch(word.strip())
    if found is None or not float(found[1]):
        raise InvalidArgument(f"{option} takes a number and one of s, m, h, d, w, such as 7d; not {word!r}")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError as error:
        raise InvalidArgument(f"{option} is too long a span: {word!r:.80}") from error


def time_of(option: str, word: str | None) -> datetime | None:
    """A time in ISO 8601; a naive one is taken as UTC, as everywhere.

    Examples:
        >>> time_of("--as-of", "2026-05-01T12:00Z").isoformat()
        '2026-05-01T12:00:00+00:00'
    """
    if word is None:
        return None
    try:
        return datetime.fromisoformat(
            word.strip().removesuffix("Z") + ("+00:00" if word.strip().endswith("Z") else "")
        )
    except ValueError as error:
        raise InvalidArgument(
            f"{option} takes a time in ISO 8601, such as 2026-05-01 or 2026-05-01T12:00+02:00; not {word!r}"
        ) from error
