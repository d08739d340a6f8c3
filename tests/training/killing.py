"""A run that dies as soon as its first state is on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nextmem_agents.training import run_state


class _Killed(Exception):
    pass


@contextmanager
def killed_after_its_first_state() -> Iterator[None]:
    """Whatever is trained inside dies there, and that it did is asserted."""
    saved = run_state.save

    def save_and_die(*args: object) -> None:
        saved(*args)  # type: ignore[arg-type]
        raise _Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_state, "save", save_and_die)
        try:
            yield
        except _Killed:
            return
    raise AssertionError("the run ended without a state on disk")
