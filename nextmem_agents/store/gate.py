"""Who may pass while a scope's key stays as it is, and who may change it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Held by many at once, or by one alone, which those who come after it wait for. It is not reentrant."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._within = 0
        self._taken = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Along with others."""
        with self._turn:
            self._turn.wait_for(lambda: not self._taken)
            self._within += 1
        try:
            yield
        finally:
            with self._turn:
                self._within -= 1
                self._turn.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Once all others have left."""
        with self._turn:
            self._turn.wait_for(lambda: not self._taken)
            self._taken = True
        try:
            with self._turn:
                self._turn.wait_for(lambda: not self._within)
            yield
        finally:
            with self._turn:
                self._taken = False
                self._turn.notify_all()
