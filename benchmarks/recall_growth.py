"""What a whole recall costs as a scope grows, with SQLite's FTS5 over the same texts beside it.

    python benchmarks/recall_growth.py --texts ../shared/data/train/sgd_accentor.jsonl.xz

Dialogues are remembered turn by turn, each a session. The first turns are encoded by the default codec; further ones
take over a payload and an index vector from those (the vector moved by half of its own spread), since encoding
100,000 turns takes half an hour and changes nothing about finding them. Every turn has its own words.
"""

from __future__ import annotations

import argparse
import math
import resource
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.index_recall import until_ready
from benchmarks.report import write_table
from benchmarks.timing import milliseconds, seconds
from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.codec.exact import CompressedChunk, compress
from nextmem_agents.evaluation.texts import texts_of
from nextmem_agents.recall.lexical import terms
from nextmem_agents.scope import Ranking
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store import NewRecord

HEADER = (
    "memories in the scope",
    "first recall after opening (ms)",
    "recall, median / worst (ms)",
    "of it encoding the question (ms)",
    "recall after a remember (ms)",
    "ranking='latent' (ms)",
    "FTS5 alone (ms)",
    "peak memory (MB)",
)
ENCODED = 2_000


def main() -> None:
    """Measure each size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="dialogues, a turn a line")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--questions", type=int, default=20)
    chosen = parser.parse_args()
    codec = LatentCodec.load()
    turns = list(islice(_turns(chosen.texts), max(chosen.sizes)))
    if len(turns) < max(chosen.sizes):
        parser.error(f"the texts hold {len(turns):,} turns; name more files, or lower --sizes")
    encoded = [
        chunk
        for start in range(0, ENCODED, 100)
        for [chunk] in compress(codec, [text for _, text in turns[start : start + 100]])
    ]
    # Every one of the largest scope's turns is as likely to be asked for as any other, in every size.
    rng = np.random.default_rng(7)
    rows, medians = [], []
    for size in chosen.sizes:
        asked = [_question(turns[n][1]) for n in rng.integers(size, size=chosen.questions + 1)]
        row, median = _measure(codec, encoded, turns[:size], asked)
        rows.append(row)
        medians.append(median)
        print(row, flush=True)
    growth = np.polyfit(np.log(chosen.sizes), np.log(medians), 1)[0]
    write_table(
        __file__,
        "What a recall costs as a scope grows",
        f"One scope of so many turns of dialogue, k = 5, texts decompressed; {chosen.questions} questions that were "
        f"not asked before, each the rarer half of a turn's words. A recall at {max(chosen.sizes):,} memories takes "
        f"{medians[-1] / medians[0]:.1f} x one at {min(chosen.sizes):,} (bar: 5 x), growing as N^{growth:.2f}.",
        HEADER,
        rows,
    )


def _turns(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Session and text of each different turn that is one chunk."""
    seen: set[str] = set()
    for file in files:
        for n, text in enumerate(texts_of(file)):
            for line in text.splitlines():
                if 20 <= len(line) <= 200 and line not in seen:
                    seen.add(line)
                    yield f"{file.name} {n}", line


def _question(text: str) -> str:
    words = sorted(set(text.split()), key=len)
    return " ".join(words[len(words) // 2 :])


def _measure(
    codec: LatentCodec, encoded: Sequence[CompressedChunk], turns: Sequence[tuple[str, str]], asked: list[str]
) -> tuple[tuple[object, ...], float]:
    with tempfile.TemporaryDirectory(prefix="nextmem-growth-") as folder:
        _write(Path(folder) / "store", codec, encoded, turns)
        with NextMem.open(Path(folder) / "store", codec=codec) as memory:
            scope = memory.scope("user")

            def recall(question: str, ranking: Ranking = "hybrid") -> list[str]:
                return [hit.text for hit in scope.recall(question, 5, ranking=ranking)]

            first = seconds(recall, asked[0])
            until_ready(memory._store, "user", np.ones(codec.index_size))
            warm = [seconds(recall, question) for question in asked[1:]]
            encoding = [seconds(codec.encode, codec.chunk(question)) for question in asked[1:]]
            latent = [seconds(recall, question, "latent") for question in asked[1:6]]
            after = []
            for question in asked[1:6]:
                scope.remember(f"And then, said somebody, {question}", session="latest")
                after.append(seconds(scope.recall, question, 5))
        fts = _fts5([text for _, text in turns], asked[1:])
    median = statistics.median(warm)
    return (
        f"{len(turns):,}",
        milliseconds(first),
        f"{milliseconds(median)} / {milliseconds(max(warm))}",
        milliseconds(statistics.median(encoding)),
        milliseconds(statistics.median(after)),
        milliseconds(statistics.median(latent)),
        milliseconds(statistics.median(fts)),
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}",
    ), median


def _write(
    folder: Path, codec: LatentCodec, encoded: Sequence[CompressedChunk], turns: Sequence[tuple[str, str]]
) -> None:
    vectors = np.stack([chunk.vector.numpy() for chunk in encoded])
    centred = vectors - vectors.mean(axis=0)
    factor = np.linalg.svd(centred, full_matrices=False)
    spread = (factor[2].T * factor[1]) / math.sqrt(len(vectors))
    rng = np.random.default_rng(len(turns))
    vault = Vault("user", None)
    with NextMem.open(folder, codec=codec) as memory:
        for start in range(0, len(turns), 2_000):
            records = []
            for n, (session, text) in enumerate(turns[start : start + 2_000], start):
                chunk, vector = encoded[n % len(encoded)], vectors[n % len(encoded)]
                if n >= len(encoded):
                    vector = vector + 0.5 * rng.normal(size=len(vector)).astype(np.float32) @ spread.T
                id_ = f"{n:032x}"
                payload = vault.seal(chunk.payload, id_, 0)
                records.append(
                    NewRecord(id_, [payload], vector[None], terms=terms(text), session=session, role="user")
                )
            memory._store.put("user", records)
        memory.flush()


def _fts5(texts: Sequence[str], asked: Sequence[str]) -> list[float]:
    sql = sqlite3.connect(":memory:")
    sql.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = 'porter')")
    sql.executemany("INSERT INTO texts VALUES (?)", ((text,) for text in texts))
    select = "SELECT text FROM texts WHERE texts MATCH ? ORDER BY rank LIMIT 5"
    queries = [" OR ".join(f'"{term}"' for term in terms(question)) for question in asked]

    def search(query: str) -> object:
        return sql.execute(select, (query,)).fetchall()

    return [seconds(search, query) for query in queries]


if __name__ == "__main__":
    main()
