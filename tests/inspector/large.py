"""Scopes of any size within seconds, and how long the inspector takes over them.

``python -m tests.inspector.large --n 100000`` prints the table. The memories are real ones, a few hundred texts that
were encoded once and are written under many ids.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime, timedelta, timezone
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch

from nextmem_agents import NextMem
from nextmem_agents.codec.exact import compress
from nextmem_agents.inspector import running
from nextmem_agents.recall.lexical import terms
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store.records import NewRecord

NAMES = "Anna Peter Maria Thomas Laura Martin Julia David".split()
THINGS = "boat map tin horse clock letter violin lamp".split()
PLACES = "Lisbon Ghent Porto Oslo Athens".split()
TEXTS = [f"{name} left a {thing} in {place}." for name in NAMES for thing in THINGS for place in PLACES]
FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)


def fill_many(memory: NextMem, scope: str, n: int, different: int = 40, batch: int = 5_000) -> None:
    """Write ``n`` memories of ``different`` texts into a scope, past the encoder."""
    texts = TEXTS[:: max(1, len(TEXTS) // different)][:different]
    chunks = compress(memory.codec, texts)
    vault = Vault(scope, None)
    for start in range(0, n, batch):
        records = []
        for i in range(start, min(n, start + batch)):
            parts, text = chunks[i % len(texts)], texts[i % len(texts)]
            id_ = f"m{i:07d}"
            records.append(
                NewRecord(
                    id=id_,
                    payloads=[vault.seal(chunk.payload, id_, k) for k, chunk in enumerate(parts)],
                    vectors=torch.stack([chunk.vector for chunk in parts]).numpy(),
                    terms=terms(text),
                    session=f"session {i // 200}",
                    role=("user", "assistant")[i % 2],
                    occurred_at=FIRST + timedelta(minutes=i),
                    metadata={"number": i},
                )
            )
        memory._store.put(scope, records)


def measure(memory: NextMem, scope: str, n: int) -> list[tuple[str, float, float]]:
    """What is asked, and the seconds that the first and the quickest of four answers took."""
    found = []
    with running(memory) as url:
        base, _, token = url.partition("/#token=")
        with httpx.Client(base_url=base, headers={"authorization": f"Bearer {token}"}, timeout=300) as client:

            def ask(what: str, name: str, **asked: Any) -> Any:
                seconds = []
                for _ in range(4):
                    started = time.perf_counter()
                    answer = client.get(f"/api/{name}", params={"scope": scope} | asked)
                    seconds.append(time.perf_counter() - started)
                    answer.raise_for_status()
                found.append((what, seconds[0], min(seconds)))
                return answer.json()

            middle = f"m{n // 2:07d}"
            ask("codec, scopes, sizes", "store")
            ask("first page of 100", "memories", limit=100, order="newest")
            ask("a page in the middle", "memories", limit=100, after=middle)
            ask("a page of a filter", "memories", limit=100, filter=f"role=user number>={n // 2}")
            ask("16 texts", "texts", id=[f"m{n // 3 + i:07d}" for i in range(16)])
            ask("search, 30 hits", "search", query="What did Laura leave in Oslo?", k=30)
            ask(
                "search with a filter",
                "search",
                query="What did Laura leave in Oslo?",
                k=30,
                filter="role=user",
            )
            one = ask("one memory with its history", "memory", id=middle)
            ask("its chunk taken apart", "chunk", id=middle, version=one["versions"][-1]["version"])
            ask("its measured sensitivity", "sensitivity", id=middle, version=one["versions"][-1]["version"])
            ask("map", "map")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    n: int = parser.parse_args().n
    say = sys.stdout.write
    with TemporaryDirectory() as folder, NextMem.open(folder) as memory:
        started = time.perf_counter()
        fill_many(memory, "many", n, different=320)
        say(f"{n:,} memories written in {time.perf_counter() - started:.0f} s\n")
        started = time.perf_counter()
        memory.flush()
        say(f"indexed in {time.perf_counter() - started:.0f} s\n")
        say("| asked | first, ms | quickest of four, ms |\n| --- | ---: | ---: |\n")
        for what, first, best in measure(memory, "many", n):
            say(f"| {what} | {1000 * first:,.0f} | {1000 * best:,.0f} |\n")


if __name__ == "__main__":
    main()
