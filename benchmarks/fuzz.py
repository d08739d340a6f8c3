"""Payloads and record rows that no writer of ours wrote, a million of them; the tests have a short run of it.

Three kinds: *payloads*, changed before or behind their tag; *server rows*, the JSON that lies in a Chroma collection;
*record rows*, any value in any place of ``records.sqlite3``. Whatever is read of them is what was written, or an error
of ours says so, within a second and 64 MB. ``fuzz_guided.py`` lets libFuzzer choose the bytes instead.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import write_table
from nextmem_agents.errors import NextMemError, PayloadError
from nextmem_agents.quantization import Payload, encode_binding, text_checksum
from nextmem_agents.store import EmbeddedStore, NewRecord
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.server_connection import Row
from nextmem_agents.store.server_rows import Stamp, chunk_rows, n_chunks_of, read_written, vectors_of
from tests.quantization.test_payload_fuzz import mutated, seeds

BINDING = encode_binding("alice", "note", "0")
SPACE = 64 * 2**20
SECONDS = 5.0
"""A hang is what takes longer, on a machine that may be busy."""

STRANGE: list[Any] = [
    None, 0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.0, -1.5, 1e308, float("inf"), "", "x", "0", "null", "[]", "{}",
    "[" * 5_000, '{"a":' * 5_000, '{"a": NaN}', '{"a": 1e999}', "\x00", "2024-05-01", "2024-05-01T10:00:00",
    "9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00+14:00", "é\u0301", "a" * 100_000,
    b"", b"\x00", b"\xff" * 7, b"\xff" * 16, bytes(16), b"\x00\x7c" * 8, b"NM\x01", bytes(100_000),
]  # fmt: skip


@contextmanager
def limits() -> Iterator[None]:
    """No room for more than 64 MB beside what is there, and no time for a hang."""

    def stuck(_: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"a hang, at {frame}")

    before = resource.getrlimit(resource.RLIMIT_AS)
    here = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + SPACE, before[1]))
    handler = signal.signal(signal.SIGALRM, stuck)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def seal(body: bytes, binding: bytes = BINDING) -> bytes:
    """A payload's bytes with the tag of a writer who knows the format."""
    key = blake2b(binding, digest_size=32, person=b"nextmem payload").digest()
    return body + blake2b(body, key=key, digest_size=8).digest()


def fuzz_payloads(n: int, rng: random.Random) -> Counter[str]:
    """Read ``n`` payloads, a fifth of them changed as accidents do, the others with a right tag over wrong content."""
    corpus = seeds(rng)
    known = set(corpus)
    outcomes: Counter[str] = Counter()
    with limits():
        for _ in range(n):
            accident = rng.random() < 0.2
            seed = rng.choice(corpus)
            data = (
                mutated(seed, rng, corpus)
                if accident
                else seal(b"NM\x01" + mutated(seed[:-8], rng, corpus)[3:])
            )
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            outcome = try_payload(data)
            if outcome == "read" and accident:
                assert data in known, f"a change went unnoticed: {data.hex()}"
            outcomes[outcome] += 1
    return outcomes


def try_payload(data: bytes) -> str:
    """Read one; whatever text it holds is the one that its checksum belongs to."""
    try:
        payload = Payload.from_bytes(data, BINDING)
    except PayloadError:
        return "refused"
    for text in (payload.literal, payload.kept_text):
        assert text is None or (text_checksum(text) == payload.text_checksum and len(text) == payload.n_bytes)
    return "read"


def fuzz_server_rows(n: int, rng: random.Random) -> Counter[str]:
    """Read ``n`` chunk rows of a Chroma collection, one to three of whose values are others."""
    heads = server_heads()
    outcomes: Counter[str] = Counter()
    with limits():
        for _ in range(n):
            head = rng.choice(heads)
            metadata = dict(head.metadata)
            if rng.random() < 0.3:
                name = rng.choice([*metadata])
                metadata[name] = rng.choice(STRANGE)
            else:
                metadata["record"] = _changed_json(str(metadata["record"]), rng)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            outcomes[try_server_row(head, metadata)] += 1
    return outcomes


def server_heads() -> list[Row]:
    """The first rows of three memories, as a Chroma collection holds them."""
    records = _records(np.eye(8, dtype=np.float32))
    return [chunk_rows("alice", Stamp(1, 1), 7, record, utc_now())[0] for record in records]


def try_server_row(head: Row, metadata: dict[str, Any]) -> str:
    """Read a row with other metadata; what is read is a memory, whole."""
    row = Row(head.id, metadata, np.eye(8, dtype=np.float32)[0])
    try:
        written = read_written(row, vectors_of({0: row}, n_chunks_of(row), 8))
    except NextMemError:
        return "refused"
    assert isinstance(written.record.id, str)
    assert isinstance(written.version, int)
    return "read"


def _changed_json(text: str, rng: random.Random) -> str:
    if rng.random() < 0.6:
        values = json.loads(text)
        name = rng.choice([*values, "id", "terms", "metadata", "another"])
        strange = rng.choice([value for value in STRANGE if not isinstance(value, bytes)])
        values[name] = rng.choice([strange, [strange], {"a": strange}, {str(strange)[:9]: 1}])
        return json.dumps(values)
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.choice(
            (b"", b"[", b'"', b"}", b"-", b"9" * 400, bytes([rng.randrange(128)]))
        )
    return data.decode(errors="replace")


def fuzz_record_rows(n: int, rng: random.Random) -> Counter[str]:
    """Put ``n`` strange values into ``records.sqlite3`` one by one, and read what stands there."""
    outcomes: Counter[str] = Counter()
    with EmbeddedStore.open(":memory:", dim=8, fingerprint="fuzz", codec_name="none") as store:
        records = _records(np.eye(8, dtype=np.float32))
        store.put("alice", records)
        store.put("alice", [records[0]])
        store.touch("alice", [1])
        connection = store._folder.database._connection
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA foreign_keys = OFF")
        texts = {record.id: _text(record) for record in records}
        cells = _cells(connection)
        with limits():
            for _ in range(n):
                table, column, row = rng.choice(cells)
                (former,) = connection.execute(f"SELECT {column} FROM {table} {row}").fetchone()
                strange = _strange_for(former, rng)
                try:
                    connection.execute(f"UPDATE {table} SET {column} = ? {row}", (strange,))
                except sqlite3.IntegrityError:
                    outcomes["refused by SQLite"] += 1
                    continue
                store._folder.wrote(None)
                signal.setitimer(signal.ITIMER_REAL, SECONDS)
                outcomes[_read(store, texts, rng)] += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.execute(f"UPDATE {table} SET {column} = ? {row}", (former,))
    return outcomes


def _cells(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Every value that can be changed and changed back: (table, column, condition), rows by their rowid."""
    cells = []
    for table in ("memories", "payloads", "vectors", "archive"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        for (rowid,) in connection.execute(f"SELECT rowid FROM {table}").fetchall():
            # The version of a memory is its rowid.
            cells += [
                (table, column, f"WHERE rowid = {rowid}")
                for column in columns
                if (table, column) != ("memories", "version")
            ]
    return cells


def _strange_for(former: Any, rng: random.Random) -> Any:
    if isinstance(former, bytes) and rng.random() < 0.7:
        data = bytearray(former)
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        return bytes(data)
    if isinstance(former, str) and rng.random() < 0.5:
        at = rng.randrange(len(former) + 1)
        return former[:at] + rng.choice(("", "x", "{", "-", "9" * 400)) + former[at + rng.randrange(3) :]
    return rng.choice(STRANGE)


def _read(store: EmbeddedStore, texts: dict[str, bytes], rng: random.Random) -> str:
    """The texts, and three of all reads; what comes back is an error of ours or what was written."""
    refused = False
    read: list[Callable[[], Any]] = [
        lambda: [*store.list("alice")],
        lambda: [*store.list("alice", as_of=utc_now())],
        lambda: store.get("alice", [*texts]),
        lambda: [store.history("alice", id_) for id_ in texts],
        lambda: store.nearest("alice", [1.0] * 8, 5),
        lambda: store.nearest("alice", [1.0] * 8, 5, as_of=utc_now()),
        lambda: store.postings("alice", ["one"]),
        lambda: store.outline("alice"),
        lambda: [*store.dump("alice")],
        lambda: store.count("alice"),
    ]
    for call in [lambda: _check_texts(store, texts), *rng.sample(read, 3)]:
        try:
            call()
        except NextMemError:
            refused = True
    return "refused" if refused else "read"


def _check_texts(store: EmbeddedStore, texts: dict[str, bytes]) -> None:
    for record in store.list("alice"):
        found = []
        for chunk, data in enumerate(store.payloads("alice", [record.version]).get(record.version, [])):
            try:
                found.append(Payload.from_bytes(data, encode_binding("alice", record.id, str(chunk))).literal)
            except PayloadError:
                break
        else:
            if len(found) == record.n_chunks:
                text = b"".join(part or b"" for part in found)
                assert text == texts[record.id], f"{record.id} reads {text!r} and is called exact"


def _records(vectors: np.ndarray) -> list[NewRecord]:
    return [
        NewRecord(
            id_,
            [_payload(id_, chunk, part.encode()) for chunk, part in enumerate(parts)],
            vectors[: len(parts)],
            terms={"one": 1, "two": 2},
            session="s",
            role="user",
            metadata={"n": 1, "flag": True, "word": "é"},
            occurred_at=utc_now(),
            importance=0.5,
        )
        for id_, parts in (("a", ["One. "]), ("b", ["Two. ", "Three. "]), ("c", ["Four. "]))
    ]


def _payload(id_: str, chunk: int, text: bytes) -> bytes:
    literal = Payload(b"fuzz", 2, text_checksum(text), len(text), literal=text)
    return literal.to_bytes(encode_binding("alice", id_, str(chunk)))


def _text(record: NewRecord) -> bytes:
    parts = [
        Payload.from_bytes(data, encode_binding("alice", record.id, str(chunk))).literal
        for chunk, data in enumerate(record.payloads)
    ]
    return b"".join(part or b"" for part in parts)


KINDS: dict[str, tuple[Callable[[int, random.Random], Counter[str]], float]] = {
    "payloads": (fuzz_payloads, 0.68),
    "server rows": (fuzz_server_rows, 0.3),
    "record rows": (fuzz_record_rows, 0.02),
}
"""The kinds, and the share of each."""


def fuzz(
    count: int, seed: int, share_of: Callable[[str], float] = lambda kind: KINDS[kind][1]
) -> list[tuple[object, ...]]:
    """Fuzz all kinds; rows of the table. Whatever goes wrong is raised."""
    rows: list[tuple[object, ...]] = []
    for kind, (run, _) in KINDS.items():
        began = time.perf_counter()
        n = max(1, int(count * share_of(kind)))
        outcomes = run(n, random.Random(f"{seed} {kind}"))
        said = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(outcomes.items()))
        rows.append(
            (kind, f"{sum(outcomes.values()):,}", said, 0, 0, 0, 0, f"{time.perf_counter() - began:.0f}")
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Fuzz and write the table; the first thing that goes wrong ends it with its traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write_table(
        __file__,
        "Fuzzing what is read from disk",
        f"{chosen.count:,} inputs, seed {chosen.seed}. Each within {SECONDS:.0f} s and, by the system's limit, 64 MB "
        "beside what the process had before; the run ends at the first input that breaks this.",
        (
            "kind",
            "inputs",
            "outcomes",
            "crashes",
            "hangs",
            "over 64 MB",
            "wrong texts called exact",
            "seconds",
        ),
        fuzz(chosen.count, chosen.seed),
    )


if __name__ == "__main__":
    main()
