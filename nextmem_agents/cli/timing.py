"""What ``nextmem bench`` measures: this machine's milliseconds, each beside what it is to be compared with."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.evaluation.agent_loop import turn_text
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
from nextmem_agents.memory import NextMem

_K = 5
ROWS = 9


@dataclass(frozen=True)
class Timing:
    """One measured operation.

    Attributes:
        operation: what was done.
        batch: texts at once.
        ms: median milliseconds of one call.
        ms_per_text: ``ms`` over ``batch``.
        ratio: how many times as fast, per text, as ``against``; below 1 is slower. None where nothing is compared.
        against: the row it is compared with.
        calls: how often it was measured.
    """

    operation: str
    batch: int
    ms: float
    ms_per_text: float
    ratio: float | None
    against: str
    calls: int


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    return {
        "machine": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "processors": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure(codec: LatentCodec, seconds: float, size: int) -> Iterator[Timing]:
    """Encode, decode, remember and recall turns of the packaged conversation, one and ``size`` at a time."""
    turns = [
        turn_text(t) for c in load_locomo(default_conversation()) for t in c.turns if t.text or t.caption
    ]
    texts = [codec.chunk(text)[0] for text in turns]
    questions = [question.text for c in load_locomo(default_conversation()) for question in c.questions]
    many = (texts * (size // len(texts) + 1))[:size]
    share = seconds / ROWS
    one = codec.encode(many[:1])
    batch = codec.encode(many)
    longest = codec.max_tokens + 1

    encode = _time(lambda i: codec.encode([texts[i % len(texts)]]), share)
    yield _row("encode", 1, encode)
    yield _row("encode", size, _time(lambda _: codec.encode(many), share), encode[0], "encode, one at a time")
    decode = _time(lambda _: codec.decode(one, max_new_tokens=longest), share)
    yield _row("decode", 1, decode)
    decoded = _time(lambda _: codec.decode(batch, max_new_tokens=longest), share)
    yield _row("decode", size, decoded, decode[0], "decode, one at a time")

    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope("bench")
        remember = _time(lambda i: scope.remember(texts[i % len(texts)]), share)
        yield _row("remember", 1, remember)
        bulk = _time(lambda _: scope.remember(many), share)
        yield _row("remember", size, bulk, remember[0], "remember, one at a time")

        def recall(question: str) -> None:
            scope.recall(question, _K).decode()

        first = _time(lambda i: recall(questions[i % len(questions)]), share)
        yield _row(f"recall, {_K} texts of {scope.count()} memories", 1, first)
        again = _time(lambda _: recall(questions[0]), share)
        yield _row("recall, the same again", 1, again, first[0], "recall")
        n = scope.count()

    with sqlite3.connect(":memory:") as sql:
        sql.execute("CREATE VIRTUAL TABLE memories USING fts5(text)")
        sql.executemany("INSERT INTO memories VALUES (?)", [(texts[i % len(texts)],) for i in range(n)])
        plain = _time(lambda i: _search(sql, questions[i % len(questions)]), share)
        yield _row("text memory (SQLite FTS5), search alone", 1, plain, first[0], "recall")


def _search(sql: sqlite3.Connection, question: str) -> list[tuple[str]]:
    words = " OR ".join(f'"{word}"' for word in question.replace('"', " ").split())
    query = "SELECT text FROM memories WHERE memories MATCH ? ORDER BY bm25(memories) LIMIT ?"
    return sql.execute(query, (words, _K)).fetchall()


def _time(work: Callable[[int], object], seconds: float) -> tuple[float, int]:
    """Median milliseconds of a call, after one to warm up, and how many calls there were: at least three."""
    work(0)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        work(len(taken))
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken), len(taken)


def _row(
    operation: str, batch: int, timed: tuple[float, int], reference: float | None = None, against: str = ""
) -> Timing:
    ms, calls = timed
    ratio = None if reference is None else reference / (ms / batch)
    return Timing(operation, batch, ms, ms / batch, ratio, against, calls)
