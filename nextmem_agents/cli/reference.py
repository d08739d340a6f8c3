"""The reference page of the command line, made of its ``--help`` by ``python -m nextmem_agents.cli.reference``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from click import unstyle
from typer.testing import CliRunner

from nextmem_agents.cli.app import app
from nextmem_agents.cli.opening import VARIABLES

WIDTH = 100
_PAGE = """# Command line

Everything below is what `nextmem … --help` prints, written by `python -m nextmem_agents.cli.reference {path}`.
A test compares it with the commands as they are.

Text goes to standard output, progress and errors to standard error. With `--json` each line of standard output is one
object whose keys stay, and an error is one object on standard error, `{{"error": …, "message": …}}`; a warning before
it, which is rare, is `{{"log": …, "message": …}}`.
"""
PATH = "docs/reference/cli.md"


def page() -> str:
    """The page, the same on every machine."""
    parts = [_PAGE.format(path=PATH)]
    for words in _commands((), typer.main.get_command(app)):
        parts.append(f"## nextmem {' '.join(words)}".rstrip() if words else "## nextmem")
        parts.append(f"```text\n{help_of(words)}\n```")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands(words: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands((*words, name), inner)


def help_of(words: tuple[str, ...]) -> str:
    """What a command's ``--help`` prints."""
    unset = dict.fromkeys([name for name, _ in VARIABLES if name in os.environ])
    environment = {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1", "LINES": "40", **unset}
    shown = CliRunner().invoke(app, [*words, "--help"], env=environment, prog_name="nextmem").output
    lines = [line.rstrip() for line in unstyle(shown).splitlines()]
    return "\n".join(lines).strip("\n")


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else PATH).write_text(page(), encoding="utf-8")
