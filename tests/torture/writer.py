"""The process that is killed: it opens a store, writes for ever, and says what it does before and after."""

from __future__ import annotations

import traceback
from multiprocessing.connection import Connection

from tests.torture.layouts import open_store
from tests.torture.workload import apply, steps


def run(said: Connection, layout: str, place: str, seed: int, first: int) -> None:
    """Say ``open``, then ``try …`` before each step and ``done`` once the store has acknowledged it.

    What was said is in the pipe, whatever becomes of this process.
    """
    try:
        store = open_store(layout, place)
        said.send("open")
        for step in steps(seed, first):
            said.send(f"try {step}")
            apply(store, step)
            said.send("done")
    except Exception:
        said.send(traceback.format_exc())
