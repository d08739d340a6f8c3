"""What commands print: text for people, JSON for scripts, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from nextmem_agents.errors import InvalidArgument

if TYPE_CHECKING:
    from nextmem_agents.recall.hits import Memory

Advance = Callable[[int, int | None], None]
"""Called with (done, total) while long work runs; the total may be unknown."""


def print_json(value: Mapping[str, Any]) -> None:
    """One object on one line; in ASCII, so that no terminal acts on what a memory holds."""
    typer.echo(json.dumps(value, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


@contextmanager
def progress(description: str, unit: str = "") -> Iterator[Advance]:
    """A bar on standard error, which vanishes when the work is done; silent where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    speed = [TextColumn("{task.fields[speed]}")] if unit else []
    console = Console(stderr=True)
    bar = Progress(
        *columns, *speed, Remaining(), console=console, transient=True, disable=not console.is_terminal
    )
    with bar:
        task = bar.add_task(description, total=None, speed="")

        def advance(done: int, total: int | None) -> None:
            seconds = bar.tasks[0].elapsed or 0
            rate = f"{done / seconds:.0f} {unit}/s" if unit and seconds else ""
            bar.update(task, completed=done, total=total, speed=rate)

        yield advance


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on standard error while something takes a moment; silent where nobody looks."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        yield


def confirm(question: str, yes: bool) -> None:
    """Ask before something is deleted; ends the command unless the answer is yes.

    Raises:
        InvalidArgument: nobody can be asked, and ``--yes`` was not given.
    """
    if yes:
        return
    if not _can_ask():
        raise InvalidArgument(f"{question} Nobody can be asked here; give --yes to go ahead")
    if not typer.confirm(question, err=True):
        typer.echo("nothing was done", err=True)
        raise typer.Exit(1)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def memory_fields(memory: Memory, text: bool = True) -> dict[str, Any]:
    """A memory as JSON: the same keys in every command."""
    record = memory.record
    fields: dict[str, Any] = {"id": memory.id}
    if text:
        fields |= {"text": memory.text, "exact": memory.exact}
    return fields | {
        "session": record.session,
        "agent": record.agent,
        "role": record.role,
        "occurred_at": record.occurred_at,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "expires_at": record.expires_at,
        "importance": record.importance,
        "metadata": memory.metadata,
    }


def memory_lines(memory: Memory, score: float | None = None, width: int | None = None) -> str:
    """A memory for people: a line of provenance, then its text, with what could act on a terminal made visible."""
    from nextmem_agents.recall.rendering import escape

    text = memory.text
    mark = "exact" if memory.exact else "NOT EXACT"
    who = escape(" ".join((memory.role or "").split()))
    when = f"{memory.occurred_at or memory.created_at:%Y-%m-%d %H:%M}"
    head = "  ".join(
        part
        for part in (f"{score:.2f}" if score is not None else "", mark, when, who, escape(memory.id))
        if part
    )
    lines = [escape(line) for line in text.splitlines() or [""]]
    if width is not None:
        flat = " ".join(" ".join(lines).split())
        lines = [flat if len(flat) <= width else flat[: width - 2] + " …"]
    return "\n".join([typer.style(head, dim=True), *(f"  {line}" for line in lines)])


def bytes_text(n: float) -> str:
    """A size for people.

    Examples:
        >>> bytes_text(999), bytes_text(34_816)
        ('999 B', '34.8 kB')
    """
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"
