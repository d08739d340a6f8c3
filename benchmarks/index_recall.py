"""What the index finds of what an exact scan finds, and what a search costs as a scope grows.

Two kinds of vectors: those of ``mini`` for sentences, multiplied by noise of their own covariance, and directions drawn
at random, which are harder than any text's.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import write_table
from nextmem_agents import LatentCodec
from nextmem_agents.evaluation.texts import read_domain
from nextmem_agents.store import EmbeddedStore, NewRecord
from nextmem_agents.store.embedded import EXACT_LIMIT
from nextmem_agents.store.exact import rank, unit

Vectors = npt.NDArray[np.float32]

OTHERS = 10
"""Small scopes beside the large one, of :data:`SMALL` memories each."""
SMALL = 100
HEADER = (
    "vectors",
    "memories",
    "recall@10, one scope",
    "recall@10, a scope of 100 in it",
    "search, median / worst (ms)",
    "exact scan in memory (ms)",
    "SQLite (memories/s)",
    "index behind it (vectors/s)",
    "opening (s)",
    "first search (s)",
    "Chroma (B/vector)",
    "peak memory (MB)",
)


def main() -> None:
    """Measure each size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 30_000, 100_000])
    parser.add_argument("--kinds", nargs="+", default=["text"], choices=["text", "random"])
    parser.add_argument("--texts", type=Path, required=True, help="a file of texts, such as SQuAD's")
    parser.add_argument("--queries", type=int, default=50)
    chosen = parser.parse_args()
    rows, times = [], {}
    for kind in chosen.kinds:
        made = _text_like(chosen.texts) if kind == "text" else _random
        for size in chosen.sizes:
            row, median = _measure(kind, size, made, chosen.queries)
            rows.append(row)
            times[kind, size] = median
            print(row, flush=True)
    growth = [_growth(kind, chosen.sizes, times) for kind in chosen.kinds]
    write_table(
        __file__,
        "What the index finds, and what a search costs",
        "One scope of so many memories beside ten of 100, in one store; 256 dimensions; k = 10; queries are made as "
        f"the vectors are and are none of them. {' '.join(growth)}",
        HEADER,
        rows,
    )


def _growth(kind: str, sizes: list[int], times: dict[tuple[str, int], float]) -> str:
    seconds = [times[kind, size] for size in sizes]
    power = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    return (
        f"A search of {kind} vectors grows as N^{power:.2f} from {min(sizes):,} to {max(sizes):,} memories."
    )


def _measure(kind: str, size: int, made: object, n_queries: int) -> tuple[tuple[object, ...], float]:
    rng = np.random.default_rng(size)
    vectors, small, queries = (
        unit(made(rng, n))
        for n in (size, OTHERS * SMALL, n_queries)  # type: ignore[operator]
    )
    folder = Path(tempfile.mkdtemp(prefix="nextmem-index-"))
    identity = {"dim": vectors.shape[1], "fingerprint": "benchmark", "codec_name": "none"}
    try:
        with EmbeddedStore.open(folder, **identity) as store:
            began = time.perf_counter()
            for start in range(0, size, 2_000):
                store.put("large", _records(vectors[start : start + 2_000], start))
            written = time.perf_counter() - began
            for scope in range(OTHERS):
                store.put(f"small-{scope}", _records(small[scope * SMALL : (scope + 1) * SMALL], 0))
            began = time.perf_counter()
            store.flush()
            behind = written + time.perf_counter() - began
        began = time.perf_counter()
        with EmbeddedStore.open(folder, **identity) as store:
            opening = time.perf_counter() - began
            began = time.perf_counter()
            store.nearest("large", queries[0], 10)
            first = time.perf_counter() - began
            until_ready(store, "large", queries[0])
            recall, seconds = _search(store, "large", vectors, queries)
            recall_small = statistics.mean(
                _search(store, f"small-{scope}", small[scope * SMALL : (scope + 1) * SMALL], queries[:20])[0]
                for scope in range(OTHERS)
            )
            chroma = store.sizes()["chroma"]
        block = np.arange(size)
        began = time.perf_counter()
        for query in queries[:10]:
            rank([(block, vectors)], query, 10)
        scan = (time.perf_counter() - began) / 10
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    median = statistics.median(seconds)
    return (
        kind,
        f"{size:,}",
        f"{recall:.4f}",
        f"{recall_small:.4f}",
        f"{1e3 * median:.1f} / {1e3 * max(seconds):.1f}",
        f"{1e3 * scan:.1f}",
        f"{size / written:,.0f}",
        f"{(size + OTHERS * SMALL) / behind:,.0f}",
        f"{opening:.2f}",
        f"{first:.2f}",
        f"{chroma / (size + OTHERS * SMALL):,.0f}",
        f"{peak:,.0f}",
    ), median


def _records(vectors: Vectors, first: int) -> list[NewRecord]:
    return [NewRecord(f"m{first + n}", [b"payload"], vector[None]) for n, vector in enumerate(vectors)]


def until_ready(store: object, scope: str, query: npt.NDArray[np.floating]) -> None:
    """The index is opened behind the first search: wait for it, so that what is timed is the usual search."""
    assert isinstance(store, EmbeddedStore)  # noqa: S101 -- of a folder
    index = store._folder.index
    assert index is not None  # noqa: S101 -- it is open for writing
    store.flush()
    deadline = time.monotonic() + 120
    while store.nearest(scope, query, 10) and store.count(scope) > EXACT_LIMIT and not index.ready:
        assert time.monotonic() < deadline, "the index did not get ready"  # noqa: S101
        time.sleep(0.2)


def _search(
    store: EmbeddedStore, scope: str, vectors: Vectors, queries: Vectors
) -> tuple[float, list[float]]:
    """Recall@10 against an exact scan, and the seconds of each search; versions are in the order of writing."""
    first = next(iter(store.list(scope, limit=1))).version
    block = np.arange(first, first + len(vectors))
    seconds, shares = [], []
    for query in queries:
        expected = {version for version, _ in rank([(block, vectors)], query, 10)}
        began = time.perf_counter()
        found = {version for version, _ in store.nearest(scope, query, 10)}
        seconds.append(time.perf_counter() - began)
        shares.append(len(found & expected) / len(expected))
    return statistics.mean(shares), seconds


def _random(rng: np.random.Generator, n: int) -> Vectors:
    return rng.normal(size=(n, 256)).astype(np.float32)


def _text_like(path: Path) -> object:
    """Vectors of ``mini`` for sentences, and as many more as are wanted: each moved by a tenth of their own spread."""
    codec = LatentCodec.load("mini")
    texts = [text[:200] for text in read_domain(path).texts[:1_500]]
    known = np.concatenate(
        [
            codec.index_vectors(
                codec.encode([codec.chunk(text)[0] for text in texts[start : start + 64]])
            ).numpy()
            for start in range(0, len(texts), 64)
        ]
    )
    known = unit(known.astype(np.float32))
    centred = known - known.mean(axis=0)
    factor = np.linalg.svd(centred, full_matrices=False)
    spread = (factor[2].T * factor[1]) / math.sqrt(len(known))

    def make(rng: np.random.Generator, n: int) -> Vectors:
        chosen = known[rng.integers(len(known), size=n)]
        noise = rng.normal(size=(n, spread.shape[1])).astype(np.float32) @ spread.T
        return np.asarray(chosen + 0.5 * noise, dtype=np.float32)

    return make


if __name__ == "__main__":
    main()
