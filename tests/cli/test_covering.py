"""A command without a test of its success, its JSON and a wrong use of it fails here."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import tests.cli
from tests.cli.covering import JSON, SUCCESS, WRONG, commands, covered

for module in pkgutil.iter_modules(tests.cli.__path__):
    if module.name.startswith("test_") and module.name != "test_covering":
        importlib.import_module(f"tests.cli.{module.name}")

ALL = dict(commands())


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_its_three_tests(name: str) -> None:
    assert {SUCCESS, WRONG, JSON} <= covered[name]


def test_the_tests_name_no_command_that_is_gone() -> None:
    assert set(covered) <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_and_offers_json(name: str) -> None:
    command = ALL[name]
    assert command.help
    options = {word for parameter in command.params for word in parameter.opts}
    assert "--json" in options
    if name.split()[0] != "train":  # their examples are in the documents
        assert f"$ nextmem {name}" in (command.epilog or ""), "help without an example"


def test_the_commands_of_the_issue_are_there() -> None:
    wanted = (
        "demo remember recall ask list show forget erase stats verify rebuild export import migrate encode train "
        "convert bench inspect mcp doctor"
    )
    assert set(wanted.split()) <= set(ALL)
    assert any(name.startswith("evaluate ") for name in ALL)
