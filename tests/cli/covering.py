"""Which tests keep which promise of which command; `test_covering` asks that every command has all three."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeVar

import typer.main
from click import Command, Group

from nextmem_agents.cli import app

SUCCESS, JSON, WRONG = "success", "json", "wrong use"
covered: dict[str, set[str]] = defaultdict(set)
F = TypeVar("F", bound=Callable[..., object])


def covers(kind: str, *commands: str) -> Callable[[F], F]:
    """Note that a test runs these commands to their success, for their JSON, or in a wrong way."""
    for command in commands:
        covered[command].add(kind)
    return lambda test: test


def commands() -> Iterator[tuple[str, Command]]:
    """Every command that can be run, by its words."""

    def walk(words: tuple[str, ...], command: Command) -> Iterator[tuple[str, Command]]:
        group = command if hasattr(command, "commands") else None
        if words and (group is None or group.invoke_without_command):  # type: ignore[attr-defined]
            yield " ".join(words), command
        for name, inner in (group.commands if group is not None else {}).items():  # type: ignore[attr-defined]
            yield from walk((*words, name), inner)

    root = typer.main.get_command(app)
    assert isinstance(root, Group) or hasattr(root, "commands")
    yield from walk((), root)
