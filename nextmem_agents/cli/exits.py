"""How a command ends: exit codes, one line for an error, and no traceback unless it was asked for."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

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
        app: reads ``sys.argv`` by itself.
        arguments: the words of the command line, to know of ``--debug`` and ``--json``.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in options
    _log_to_stderr(debug)
    try:
        app()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else ERROR
    except KeyboardInterrupt:
        _say("interrupted", "KeyboardInterrupt", "--json" in options)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has enough (`nextmem list | head`); Python must not try to flush into the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if debug:
            traceback.print_exc()
        message = str(error)
        if not isinstance(error, NextMemError):
            message = f"{type(error).__name__}: {message}; --debug shows where"
        _say(message, type(error).__name__, "--json" in options)
        return exit_code(error)
    return OK


def _say(message: str, kind: str, as_json: bool) -> None:
    line = json.dumps({"error": kind, "message": message}) if as_json else f"nextmem: {message}"
    typer.echo(line, err=True)


def _log_to_stderr(debug: bool) -> None:
    """Warnings of the library on standard error; all of its events with ``--debug``."""
    logger = logging.getLogger("nextmem_agents")
    for handler in [h for h in logger.handlers if h.get_name() == "nextmem cli"]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.set_name("nextmem cli")
    handler.setFormatter(logging.Formatter("nextmem: %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
