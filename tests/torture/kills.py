"""Kill writers, and the server under them, while they write; then look for every memory that was acknowledged."""

from __future__ import annotations

import math
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nextmem_agents.quantization import Payload, encode_binding
from nextmem_agents.store import Record, Store
from tests.store.server.chroma_server import ChromaServer
from tests.torture.layouts import open_store
from tests.torture.workload import SCOPE, Step, record_of, sentences, vector_of
from tests.torture.writer import run

PATIENCE = 120.0
MOST_CALLS = 40
MOST_SECONDS = 0.03
"""A writer is killed after so many acknowledged calls and then so many seconds, or fewer of both."""


class Lost(AssertionError):
    """A store broke its word."""


@dataclass
class Outcome:
    """What came of the kills of one layout; times in seconds."""

    layout: str
    kills: int = 0
    server_kills: int = 0
    acknowledged: int = 0
    unacknowledged_kept: int = 0
    memories: int = 0
    losses: list[str] = field(default_factory=list)
    openings: list[float] = field(default_factory=list)
    first_searches: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Expected:
    """What must be there, by memory: the revisions any of which may be; None stands for its absence."""

    revisions: dict[int, set[int | None]] = field(default_factory=dict)
    under_way: Step | None = None

    def settle(self, step: Step) -> None:
        """A step was acknowledged."""
        for n, revision in step.puts:
            self.revisions[n] = {revision}
        for n in step.forgets:
            self.revisions[n] = {None}

    def doubt(self, step: Step) -> None:
        """A step was under way at the kill: it may have happened, as a whole."""
        self.under_way = step
        for n, revision in step.puts:
            self.revisions[n] = self.revisions.get(n, {None}) | {revision}
        for n in step.forgets:
            self.revisions[n] = self.revisions[n] | {None}


class Writer:
    """A writing process, and what it has said. Forked from one that has imported everything: that takes seconds."""

    def __init__(self, layout: str, place: str, seed: int, first: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["chromadb", "tests.torture.writer"])
        self._heard, said = context.Pipe(duplex=False)
        self._process = context.Process(target=run, args=(said, layout, place, seed, first), daemon=True)
        self._process.start()
        said.close()

    def line(self) -> str | None:
        """The next thing it says, or None at its end."""
        if not self._heard.poll(PATIENCE):
            self.kill()
            raise Lost("the writer hangs")
        try:
            return str(self._heard.recv())
        except EOFError:
            return None

    def kill(self) -> None:
        """``kill -9``."""
        self._process.kill()

    def finish(self) -> None:
        """Wait for the end."""
        self._process.join()
        self._process.close()
        self._heard.close()


def torture(
    layout: str,
    folder: Path,
    kills: int,
    memories: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    seconds: float = math.inf,
) -> Outcome:
    """Fill a store, kill its writers ``kills`` times, and check it after each.

    Args:
        layout: of :data:`tests.torture.layouts.LAYOUTS`.
        folder: an empty folder for it.
        kills: how many; in the server layout every third one hits the server itself.
        memories: how many the store holds beforehand.
        seed: of the workload and the moments of the kills.
        say: called with a line of progress now and then.
        seconds: after so many no further kill follows.

    Returns:
        What came of it; ``losses`` says what was not there, differed, was not found, or was there by half.

    Raises:
        Lost: a writer failed or hung by itself.
    """
    choose = random.Random(f"{seed} {layout}")
    outcome, expected = Outcome(layout), Expected()
    began = time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(ChromaServer(folder / "server")) if layout == "server" else None
        place = server.url if server else str(folder / "store")
        _fill(layout, place, memories, expected)
        first, changed = memories, set[int]()
        for round_ in range(kills):
            hit_server = server if round_ % 3 == 2 else None
            before = dict(expected.revisions)
            _one_kill(layout, place, choose, seed + round_, first, expected, outcome, hit_server)
            outcome.kills += 1
            outcome.server_kills += hit_server is not None
            changed |= {n for n, r in expected.revisions.items() if before.get(n) != r}
            first = max(expected.revisions, default=first - 1) + 1
            everything = round_ == kills - 1 or time.monotonic() - began > seconds
            try:
                _check(layout, place, expected, outcome, set(expected.revisions) if everything else changed)
                if everything:
                    _check_index(layout, place)
            except Lost as loss:
                outcome.losses.append(f"after kill {round_ + 1}: {loss}")
                say(outcome.losses[-1])
            changed = set()
            if everything:
                break
            if (round_ + 1) % 10 == 0:
                calls, losses = outcome.acknowledged, len(outcome.losses)
                say(f"{layout}: {round_ + 1} kills, {calls} acknowledged calls, {losses} losses")
    outcome.seconds = time.monotonic() - began
    return outcome


def _fill(layout: str, place: str, memories: int, expected: Expected) -> None:
    with open_store(layout, place) as store:
        for start in range(0, memories, 1_000):
            part = range(start, min(start + 1_000, memories))
            store.put(SCOPE, [record_of(n, 0) for n in part])
            expected.settle(Step(puts=tuple((n, 0) for n in part)))


def _one_kill(
    layout: str,
    place: str,
    choose: random.Random,
    seed: int,
    first: int,
    expected: Expected,
    outcome: Outcome,
    server: ChromaServer | None,
) -> None:
    writer = Writer(layout, place, seed, first)
    line = writer.line()
    if line != "open":
        raise Lost(f"the store did not open: {line}")

    def strike() -> None:
        if server is not None:
            server.kill()
            time.sleep(choose.uniform(0.0, 0.2))
        writer.kill()

    delay = threading.Timer(choose.uniform(0.0, MOST_SECONDS), strike)
    left = choose.randint(0, MOST_CALLS)
    if left == 0:
        delay.start()
    step: Step | None = None
    while (line := writer.line()) is not None:
        if line.startswith("try "):
            step = Step.parse(line.removeprefix("try "))
        elif line == "done" and step is not None:
            expected.settle(step)
            outcome.acknowledged += 1
            step = None
            left -= 1
            if left == 0:
                delay.start()
        elif server is None:
            raise Lost(f"the writer failed by itself: {line}")
    delay.join()
    writer.finish()
    expected.under_way = None
    if step is not None:
        expected.doubt(step)
    if server is not None:
        server.start()


def _check(layout: str, place: str, expected: Expected, outcome: Outcome, names: set[int]) -> None:
    """Reopen, and look at the memories of these names, and at the whole list for anything half-written."""
    began = time.monotonic()
    with open_store(layout, place) as store:
        opened = time.monotonic()
        store.nearest(SCOPE, np.ones(vector_of("").shape), 5)
        outcome.openings.append(opened - began)
        outcome.first_searches.append(time.monotonic() - opened)
        found = {int(record.metadata["n"]): record for record in store.list(SCOPE)}
        outcome.memories = len(found)
        for n, record in found.items():
            if record.metadata["revision"] not in expected.revisions.get(n, ()):
                raise Lost(
                    f"m{n} has revision {record.metadata['revision']}, not {expected.revisions.get(n)}"
                )
        for n, revisions in expected.revisions.items():
            if n not in found and None not in revisions:
                raise Lost(f"m{n} was acknowledged and is gone")
        if expected.under_way is not None:
            _check_whole(found, expected.under_way)
        stored = store.payloads(SCOPE, [found[n].version for n in sorted(names) if n in found])
        for n in sorted(names):
            doubted = len(expected.revisions[n]) > 1
            revision = int(found[n].metadata["revision"]) if n in found else None
            if revision is not None:
                _check_one(store, n, revision, found[n].version, stored[found[n].version])
                outcome.unacknowledged_kept += doubted
            # A server that lives on may still carry out what a killed writer had asked of it.
            if not doubted or layout != "server":
                expected.revisions[n] = {revision}
        if store.count(SCOPE) != len(found):
            raise Lost(f"{store.count(SCOPE)} memories are counted and {len(found)} listed")


def _check_index(layout: str, place: str) -> None:
    """The index holds what the records do, vector by vector, without being mended first."""
    with open_store(layout, place) as store:
        store.flush()
        report = store.verify(lambda *_: None)
    if not report.sound or report.index_missing or report.index_extra or report.index_wrong:
        raise Lost(f"the index differs from the records: {report}")


def _check_whole(found: Mapping[int, Record], step: Step) -> None:
    """Of a put that was under way at the kill, all memories are there, or none."""
    there = {n: n in found and found[n].metadata["revision"] == revision for n, revision in step.puts}
    if len(set(there.values())) > 1:
        raise Lost(f"half of a put is there: {there}")


def _check_one(store: Store, n: int, revision: int, version: int, stored: Sequence[bytes]) -> None:
    """The memory's payloads are what was written, and each of its texts finds it, by vector and by word."""
    texts = sentences(n, revision)
    read = [
        Payload.from_bytes(data, encode_binding(SCOPE, f"m{n}", str(chunk))).literal
        for chunk, data in enumerate(stored)
    ]
    if read != [text.encode() for text in texts]:
        raise Lost(f"m{n} reads {read}, not {texts}")
    for text in texts:
        [(best, similarity)] = store.nearest(SCOPE, vector_of(text), 1)
        if best != version or similarity < 0.9999:
            raise Lost(f"m{n} is not found by its vector: version {best} at {similarity}")
    if version not in store.postings(SCOPE, [f"m{n}x"]).terms[f"m{n}x"].versions:
        raise Lost(f"m{n} is not found by its words")
