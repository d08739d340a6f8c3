"""The folder of one evaluation: its settings, claimed once, and every raw output, appended as it comes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nextmem_agents.errors import DataError

SETTINGS, OUTPUTS, STORE = "settings.json", "outputs.jsonl", "store"
Record = dict[str, Any]


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of settings, whatever the order they were given in.

    >>> settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class RunFolder:
    """What a run has written so far; made by :func:`open_run`.

    A line is on disk before the next question is asked, so that killing the process loses one answer at most: the run
    goes on when the same command is given again. A line that was cut off in the middle is dropped.

    Attributes:
        path: the folder.
        settings: of the run.
        records: all outputs, in their order.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path = path
        self.settings = dict(settings)
        self.sha256 = settings_hash(settings)
        self._claim()
        self.records = self._read()
        self._file = (path / OUTPUTS).open("a", encoding="utf-8")

    @property
    def store(self) -> Path:
        """Where the run's memory is kept."""
        return self.path / STORE

    def append(self, record: Mapping[str, Any]) -> None:
        """Add an output; it is on disk when this returns."""
        line = {**record, "run": self.sha256[:12]}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.append(line)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _claim(self) -> None:
        path = self.path / SETTINGS
        if path.is_file():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))["settings"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path} cannot be read as a run's settings ({error}); give another folder"
                ) from error
            if settings_hash(before) != self.sha256:
                names = sorted(before.keys() | self.settings.keys())
                different = [name for name in names if before.get(name) != self.settings.get(name)]
                shown = ", ".join(
                    f"{n}: {_short(before.get(n))}, not {_short(self.settings.get(n))}" for n in different
                )
                raise DataError(
                    f"{self.path} holds a run with other settings ({shown}); give those again to go on with it, or "
                    "another --output"
                )
            return
        if (self.path / OUTPUTS).exists():
            raise DataError(f"{self.path} holds outputs without settings; give another folder")
        written = {"sha256": self.sha256, "settings": self.settings}
        replace(path, json.dumps(written, indent=1, ensure_ascii=False) + "\n")

    def _read(self) -> list[Record]:
        path = self.path / OUTPUTS
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        records = []
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: not JSON ({error}); remove it, or the folder"
                ) from error
        return records


@contextmanager
def open_run(path: Path, settings: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The folder of a run, made or gone on with; one process at a time.

    Raises:
        DataError: it belongs to a run with other settings, another process is writing to it, or it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / "run.lock", timeout=0):
            folder = RunFolder(path, settings)
            try:
                yield folder
            finally:
                folder.close()
    except Timeout as error:
        raise DataError(
            f"another process is writing to {path}; wait for it, or give another folder"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be used as a run's folder: {error}") from error


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
