"""One writer process per folder: two processes on one Chroma folder silently lose each other's vectors."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from nextmem_agents.errors import StoreError, StoreLocked


class WriterLock:
    """The right to write to a folder; the operating system takes it back when the process dies.

    ``writer.lock`` is what is locked, ``writer.json`` only says who holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._holder = folder / "writer.json"
        # A store may be closed by another thread than the one that opened it.
        self._lock = FileLock(folder / "writer.lock", thread_local=False)

    def acquire(self) -> None:
        """Take the lock, or raise ``StoreLocked`` naming the process that has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise StoreLocked(
                f"{self._folder} is being written by {self._describe_holder()}; close it there, open it here "
                "with read_only=True, or let many processes write through a Chroma server"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise StoreError(f"{self._folder} cannot be locked for writing: {error}") from error
        try:
            since = datetime.now(timezone.utc).isoformat(timespec="seconds")
            note = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": since})
            self._holder.write_text(note, encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise StoreError(f"{self._holder} cannot be written: {error}") from error

    def release(self) -> None:
        """Give the lock back."""
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _describe_holder(self) -> str:
        try:
            holder = json.loads(self._holder.read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
