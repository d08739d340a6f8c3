"""How a command ends: exit codes, one line for an error, and no traceback unless it was asked for."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from nextmem_agents.errors import (
    DamagedRecord,
    DamagedStore,
    InvalidArgument,
    MemoryNotFound,
    NextMemError,
    PayloadError,
    StoreError,
    StoreLocked,
)

OK, ERROR, USAGE, NOT_FOUND, DAMAGED, LOCKED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

DOCUMENTED = (
    (OK, "done"),
    (ERROR, "something failed; the line on standard error says what, and what to do"),
    (USAGE, "the command line is wrong, or a value in it"),
    (NOT_FOUND, "no such memory or scope, or no store there yet"),
    (DAMAGED, "something stored is damaged, or `doctor` found what does not work"),
    (LOCKED, "another process is writing to the store"),
    (INTERRUPTED, "interrupted"),
)


# Typer brings a Click of its own, or uses the one installed: the class is had from what both make public.
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class NoStore(StoreError):
    """There is no store at the place given, and a command that reads makes none."""


class NoScope(StoreError):
    """The store holds nothing of the scope given."""


# The first that fits counts.
_CODES: tuple[tuple[type[NextMemError], int], ...] = (
    (InvalidArgument, USAGE),
    (MemoryNotFound, NOT_FOUND),
    (NoStore, NOT_FOUND),
    (NoScope, NOT_FOUND),
    (DamagedStore, DAMAGED),
    (DamagedRecord, DAMAGED),
    (PayloadError, DAMAGED),
    (StoreLocked, LOCKED),
)


def exit_code(error: BaseException) -> int:
    """The exit code for an error of ours; 1 for any other.

    Examples:
        >>> exit_code(MemoryNotFound("there is no memory 'x'")), exit_code(OSError())
        (3, 1)
    """
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def run(app: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run the application; whatever it raises becomes one line on standard error and an exit code.

    Args:
        app: reads ``sys.argv`` by itself; what it returns is its exit code, if that is a number.
        arguments: the words of the command line, to know of ``--debug`` and ``--json``.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug, as_json = "--debug" in options, "--json" in options
    _log_to_stderr(debug, as_json)
    try:
        code = _code_of(app)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader has enough (`nextmem list | head`); Python must not try to flush into the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, _ClickError):
            return _refused(error, as_json)
        message = str(error)
        if not isinstance(error, NextMemError):
            message = f"{type(error).__name__}: {message}; --debug shows where"
        _say(message, type(error).__name__, as_json)
        return exit_code(error)
    if code == INTERRUPTED:
        _say("interrupted", "KeyboardInterrupt", as_json)
    return code


def _code_of(app: Callable[[], object]) -> int:
    try:
        code = app()
    except SystemExit as stop:
        # What Typer makes of a closed pipe, even where it is to leave errors alone.
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        code = stop.code if isinstance(stop.code, int) or stop.code is None else ERROR
    return code if isinstance(code, int) else OK


def _refused(error: _ClickError, as_json: bool) -> int:
    """Say what is wrong with the command line, to people as Typer does."""
    if as_json:
        _say(error.format_message(), type(error).__name__, as_json)
    else:
        from typer.rich_utils import rich_format_error

        rich_format_error(error)
    return int(error.exit_code)


def _say(message: str, kind: str, as_json: bool) -> None:
    line = json.dumps({"error": kind, "message": message}) if as_json else f"nextmem: {message}"
    typer.echo(line, err=True)


class _JsonLines(logging.Formatter):
    """A log event as one object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"log": record.levelname, "message": record.getMessage()})


def _log_to_stderr(debug: bool, as_json: bool) -> None:
    """Warnings of the library on standard error; all of its events with ``--debug``."""
    logger = logging.getLogger("nextmem_agents")
    for handler in [h for h in logger.handlers if h.get_name() == "nextmem cli"]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.set_name("nextmem cli")
    handler.setFormatter(
        _JsonLines() if as_json else logging.Formatter("nextmem: %(levelname)s: %(message)s")
    )
    if not debug:  # that an operation failed is what the command's own error says
        handler.addFilter(lambda record: record.name != "nextmem_agents.operations")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
