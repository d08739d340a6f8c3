"""Many agents at once: the codec's worker, and the event loop beside it.

    python benchmarks/concurrency.py [THREADS]        # writes benchmarks/concurrency.md and concurrency.json

The worker: each client asks for one thing after another, 1 client and 32 clients in turns; the same requests without
the worker are the control. The event loop: 32 users who remember and recall at once through the async API, while a
task that sleeps for 5 ms at a time notes how late it wakes.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from codec import TOKENS, texts
from report import write_table
from timing import milliseconds

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec import drafting, exact
from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.codec.worker import Caller, on_behalf_of

CLIENTS = 32
EACH = 8  # requests of a client, one after another
CHUNKS = 64  # that a client alone asks for once each, and all clients together four times
ROUNDS = 3
STEPS = "decode, step by step"  # and not from drafts, by which one text alone gains most
NOTES = 1  # that each user of the event loop remembers and recalls


def requests(
    work: Callable[[int], object], clients: int, each: int, batched: bool
) -> tuple[float, list[float], int]:
    """Requests a second, every request's seconds, and how many the slowest client had done at half time."""
    times: list[float] = []
    done = [0] * clients
    lock, half = threading.Lock(), [0]

    def client(name: int) -> None:
        for i in range(each):
            started = time.perf_counter()
            if batched:
                with on_behalf_of(Caller(name)):
                    work(name * each + i)
            else:
                work(name * each + i)
            with lock:
                times.append(time.perf_counter() - started)
                done[name] += 1
                if len(times) == clients * each // 2:
                    half[0] = min(done)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return clients * each / (time.perf_counter() - started), times, half[0]


def percentile(times: list[float], share: float) -> float:
    """The value below which so great a share of them lies."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


async def lag(memory: NextMem, notes: list[str]) -> tuple[list[float], float]:
    """How late a task wakes while users work, and what they did in a second."""
    late: list[float] = []
    running = True

    async def watch() -> None:
        while running:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - started - 0.005)

    async def user(i: int) -> None:
        scope = memory.scope(f"user {i}")
        for n in range(NOTES):
            await scope.aremember(notes[(i * NOTES + n) % len(notes)])
            await scope.arecall("What was said?", k=3)

    watcher = asyncio.create_task(watch())
    started = time.perf_counter()
    await asyncio.gather(*map(user, range(CLIENTS)))
    seconds = time.perf_counter() - started
    running = False
    await watcher
    return late, CLIENTS * NOTES * 2 / seconds


def main(threads: int | None = None) -> None:
    """Measure, and write the table."""
    if threads is not None:
        torch.set_num_threads(threads)
    codec = LatentCodec.load()
    chunks = texts(codec, CHUNKS)
    payloads = [compressed[0].payload for compressed in compress(codec, chunks)]
    works: dict[str, Callable[[int], object]] = {
        "encode": lambda i: codec.encode([chunks[i % CHUNKS]]),
        "decode": lambda i: decompress(codec, [[payloads[i % CHUNKS]]]),
        STEPS: lambda i: decompress(codec, [[payloads[i % CHUNKS]]]),
        "compress (encode, repair, prove)": lambda i: compress(codec, [chunks[i % CHUNKS]]),
    }
    rows = []
    most = drafting.MOST
    for name, work in works.items():
        exact.MOST = 0 if name == STEPS else most
        work(0)
        one, alone, many, all_times, halves = [], [], [], [], []
        for _ in range(ROUNDS):
            # The same chunks as of all: some are refined, and take twice as long.
            alone.append(requests(work, 1, CHUNKS, batched=False)[0])
            one.append(requests(work, 1, CHUNKS, batched=True)[0])
            rate, times, half = requests(work, CLIENTS, EACH, batched=True)
            many.append(rate)
            all_times += times
            halves.append(half)
        p50, p99 = percentile(all_times, 0.5), percentile(all_times, 0.99)
        rate, single = statistics.median(many), statistics.median(one)
        rows.append(
            (
                name, f"{statistics.median(alone):.1f}", f"{single:.1f}", f"{rate:.1f}", f"{rate / single:.1f}",
                milliseconds(p50), milliseconds(p99), f"{p99 / p50:.1f}", min(halves),
            )
        )  # fmt: skip
    exact.MOST = most
    with NextMem.open(":memory:", codec=codec) as memory:
        memory.scope("warm").remember(chunks[0])
        memory.scope("warm").recall("What?")[0].text  # noqa: B018 - decodes it
        late, calls = asyncio.run(lag(memory, chunks))
    write_table(
        __file__,
        "Many agents at once",
        f"Codec `{codec.config.name}`, requests of one {TOKENS}-token chunk, {torch.get_num_threads()} thread(s), "
        f"{CLIENTS} clients; bars: five times the throughput of one client, p99 at most 4 times p50, no client without "
        "a finished request at half time.\n\n"
        f"Event loop with {CLIENTS} async users who remember and recall ({calls:.1f} calls a second): it wakes late by "
        f"{milliseconds(percentile(late, 0.5))} ms (p50) and {milliseconds(percentile(late, 0.99))} ms (p99, of "
        f"{len(late)}; bar 50 ms).",
        ["request", "without worker, /s", "one client, /s", "32 clients, /s", "times", "p50, ms", "p99, ms",
         "p99 / p50", "least done at half time"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
