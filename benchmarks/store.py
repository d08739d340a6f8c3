"""What a store costs: writing (the codec apart), opening, disk; with plain SQLite on the same disk beside it."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import write_table
from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.evaluation.locomo import load_locomo
from nextmem_agents.store import EmbeddedStore, NewRecord
from nextmem_agents.store.exact import unit

HEADER = ("what", "measured", "bar")
WORDS = [f"word{n}" for n in range(3_000)]
TERMS = 14
"""Different terms of a memory; LoCoMo's turns have 14 on average."""


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--memories", type=int, default=10_000, help="written for the rates and for reopening"
    )
    parser.add_argument("--turns", type=int, default=1_000, help="of LoCoMo, stored with the default codec")
    parser.add_argument("--wide", type=int, default=1_000, help="memories of an 8B codec's shape")
    parser.add_argument("--singles", type=int, default=200, help="single writes")
    parser.add_argument("--locomo", type=Path, help="locomo10.json; without, no turns are stored")
    parser.add_argument(
        "--grown", type=int, nargs="*", default=[], help="sizes of stores to open, such as 1000000"
    )
    chosen = parser.parse_args()
    rows = [*_writing(chosen.memories), *_singles(chosen.singles)] if chosen.memories else []
    if chosen.locomo:
        rows += _disk_of_turns(chosen.locomo, chosen.turns)
    if chosen.wide:
        rows += _disk_of_wide(chosen.wide)
    for size in chosen.grown:
        rows += _grown(size)
        print(rows[-5:], flush=True)
    rows.append(
        (
            "peak resident memory",
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB",
            "stated",
        )
    )
    write_table(
        __file__,
        "The embedded store",
        "Records as a codec would make them (payloads of 737 random bytes, 256-d vectors, 14 terms) unless said "
        "otherwise; SQLite writes with synchronous=FULL in both.",
        HEADER,
        rows,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="nextmem-store-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open(folder: Path, dim: int = 256) -> EmbeddedStore:
    return EmbeddedStore.open(folder, dim=dim, fingerprint="benchmark", codec_name="none")


def _records(
    n: int, first: int = 0, payload: int = 737, dim: int = 256, terms: int = TERMS
) -> list[NewRecord]:
    rng = np.random.default_rng(first)
    vectors = unit(rng.normal(size=(n, 1, dim)).astype(np.float32))
    return [
        NewRecord(
            f"{first + i:032x}",
            [rng.bytes(payload)],
            vectors[i],
            terms=_words(rng, terms),
            session=f"session {(first + i) // 30}",
            role="user",
            digest=f"{first + i:022x}",
        )
        for i in range(n)
    ]


def _words(rng: np.random.Generator, n: int) -> dict[str, int]:
    """So many different words, the early ones far more often, as in any text."""
    found: dict[str, int] = {}
    while len(found) < n:
        found[WORDS[int(rng.zipf(1.3)) % len(WORDS)]] = 1
    return found


def _writing(n: int) -> list[tuple[object, ...]]:
    with _folder() as folder:
        store = _open(folder)
        batches = [_records(min(1_000, n - start), start) for start in range(0, n, 1_000)]
        began, worked = time.perf_counter(), time.thread_time()
        for batch in batches:
            store.put("user", batch)
        durable, worked = time.perf_counter() - began, time.thread_time() - worked
        store.flush()
        indexed = time.perf_counter() - began
        store.close()
        with _open(folder) as store:
            sizes = store.sizes()
        total = _bytes_under(folder)
        openings = []
        for _ in range(3):
            began = time.perf_counter()
            with _open(folder) as store:
                store.count("user")
                openings.append(time.perf_counter() - began)
                began = time.perf_counter()
                store.nearest("user", np.ones(256), 10)
                first = time.perf_counter() - began
    return [
        (f"{n:,} memories in batches of 1,000, durable in SQLite", f"{n / durable:,.0f}/s", ">= 1,000/s"),
        ("the same, by the processor time that the writing thread took", f"{n / worked:,.0f}/s", ""),
        ("the index, following behind", f"{n / indexed:,.0f}/s", "reported"),
        (f"reopening at {n:,} memories", f"{statistics.median(openings):.3f} s", "<= 2 s"),
        ("first search after it", f"{first:.3f} s", ""),
        *_disk_rows(f"a memory of {n:,}", n, 737 * n, 1_024 * n, sizes, total, 2.5),
    ]


def _singles(n: int) -> list[tuple[object, ...]]:
    """One put at a time, in turn with one commit of the same bytes to a plain table."""
    ours, plain = [], []
    with _folder() as folder, _open(folder) as store:
        other = sqlite3.connect(folder / "plain.sqlite3", isolation_level=None)
        other.execute("PRAGMA page_size = 16384")
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("PRAGMA synchronous = FULL")
        other.execute("CREATE TABLE memories (id TEXT PRIMARY KEY, text TEXT, payload BLOB, vector BLOB)")
        for record in _records(n):
            words = " ".join(record.terms)
            began = time.perf_counter()
            store.put("user", [record])
            between = time.perf_counter()
            other.execute(
                "INSERT INTO memories VALUES (?, ?, ?, ?)",
                (record.id, words, record.payloads[0], record.vectors.tobytes()),
            )
            plain.append(time.perf_counter() - between)
            ours.append(between - began)
        other.close()
    a, b = statistics.median(ours), statistics.median(plain)
    return [
        ("one durable put", f"{1e3 * a:.2f} ms", ""),
        ("one plain SQLite commit of the same bytes", f"{1e3 * b:.2f} ms", ""),
        ("ratio of the two", f"{a / b:.2f}", "<= 2"),
    ]


def _disk_of_turns(locomo: Path, n: int) -> list[tuple[object, ...]]:
    turns = [
        turn
        for conversation in load_locomo(locomo)
        for session in conversation.sessions
        for turn in session.turns
    ][:n]
    codec = LatentCodec.load()
    with _folder() as folder:
        with NextMem.open(folder, codec=codec) as memory:
            scope = memory.scope("user")
            for start in range(0, len(turns), 200):
                part = turns[start : start + 200]
                scope.remember([turn.text for turn in part], role="user", session=f"s{start}")
            n_payload, n_vectors = _payload_bytes(memory._store)
        with NextMem.open(folder, codec=codec) as memory:
            memory.flush()
            sizes = memory.sizes()
        total = _bytes_under(folder)
    return _disk_rows(
        f"a LoCoMo turn in {codec.config.name}, of {len(turns):,}",
        len(turns),
        n_payload,
        4 * codec.index_size * n_vectors,
        sizes,
        total,
        2.5,
    )


def _disk_of_wide(n: int) -> list[tuple[object, ...]]:
    with _folder() as folder:
        with _open(folder, 1_024) as store:
            for start in range(0, n, 200):
                store.put("user", _records(min(200, n - start), start, payload=34_816, dim=1_024))
            store.flush()
        with _open(folder, 1_024) as store:
            sizes = store.sizes()
        total = _bytes_under(folder)
    rest = (total - sizes["chroma"]) / n
    return [
        (f"8B's shape, {n:,} memories: payload", "34,816 B", ""),
        (
            "8B's shape: all of SQLite, index vector of 1,024 dimensions and terms included",
            f"{rest:,.0f} B, {rest / 34_816:.2f} x the payload",
            "<= 1.3 x",
        ),
        ("8B's shape: Chroma", f"{sizes['chroma'] / n:,.0f} B", "the index"),
    ]


def _disk_rows(
    what: str, n: int, payload: int, vectors: int, sizes: dict[str, int], total: int, bar: float
) -> list[tuple[object, ...]]:
    parts = {
        "payloads, as SQLite holds them": sizes["payloads"],
        "index vectors in SQLite": sizes["vectors"],
        "lexical index": sizes["lexical"],
        "records": sizes["records"] - sizes["payloads"] - sizes["vectors"] - sizes["lexical"],
        "Chroma": sizes["chroma"],
        "all else in the folder": total - sizes["records"] - sizes["chroma"],
    }
    return [
        (f"{what}: payload", f"{payload / n:,.0f} B", ""),
        (f"{what}: index vector in float32", f"{vectors / n:,.0f} B", ""),
        *((f"{what}: {part}", f"{size / n:,.0f} B", "") for part, size in parts.items()),
        (
            f"{what}: all, over payload and index vector",
            f"{total / n:,.0f} B, {total / (payload + vectors):.2f} x",
            f"<= {bar} x",
        ),
    ]


def _payload_bytes(store: object) -> tuple[int, int]:
    """The bytes of all payloads, and how many there are."""
    assert isinstance(store, EmbeddedStore)  # noqa: S101 -- a folder with SQLite
    with store._folder.mutex, store._folder.database.transaction() as sql:
        total, n = sql.execute("SELECT TOTAL(LENGTH(payload)), COUNT(*) FROM payloads").fetchone()
    return int(total), int(n)


def _grown(size: int) -> list[tuple[object, ...]]:
    """A store of so many memories in scopes of 1,000, the first one written and the others copied by SQLite."""
    with _folder() as folder:
        with _open(folder) as store:
            store.put("scope 0", _records(1_000, payload=100, terms=4))
            store.flush()
        connection = sqlite3.connect(folder / "records.sqlite3", isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            for table in ("memories", "payloads", "vectors", "postings")
        }
        for n in range(1, size // 1_000):
            connection.execute("INSERT INTO scopes (scope, name) VALUES (?, ?)", (n + 1, f"scope {n}"))
            for table, names in columns.items():
                values = [
                    {"scope": str(n + 1), "version": f"version + {1_000 * n}", "indexed": "0"}.get(name, name)
                    for name in names
                ]
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {table} WHERE scope = 1"  # noqa: S608
                )
        connection.execute("COMMIT")
        connection.close()
        os.sync()  # or the first put would wait for all of it to be written
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        store = _open(folder)
        opening = time.perf_counter() - began
        began = time.perf_counter()
        store.nearest("scope 0", np.ones(256), 10)
        store.postings("scope 0", WORDS[:4])
        first = time.perf_counter() - began
        times = []
        for n in range(30):
            began = time.perf_counter()
            store.nearest("scope 0", np.ones(256) + n, 10)
            store.postings("scope 0", WORDS[n : n + 4])
            times.append(time.perf_counter() - began)
        puts = []
        for n in range(20):
            [record] = _records(1, size + n)
            began = time.perf_counter()
            store.put("scope 0", [record])
            puts.append(time.perf_counter() - began)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        store._folder.index and store._folder.index.stop()  # the index of a million would take an hour
        store.close()
    what = f"a store of {size:,} memories (payload 100 B, 4 terms) in scopes of 1,000"
    return [
        (f"{what}: opening", f"{opening:.3f} s", "<= 5 s at 1,000,000"),
        (f"{what}: first search", f"{1e3 * first:.1f} ms", ""),
        (
            f"{what}: search by vector and words, median",
            f"{1e3 * statistics.median(times):.1f} ms",
            "slower than N^0.5",
        ),
        (f"{what}: one durable put, median", f"{1e3 * statistics.median(puts):.1f} ms", ""),
        (f"{what}: more memory at its peak", f"{grown:.0f} MB", "stated"),
    ]


def _bytes_under(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
