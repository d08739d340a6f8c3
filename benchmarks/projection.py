"""What projecting wide index vectors to fewer dimensions costs in recall.

    python benchmarks/projection.py --passages ../shared/data/eval/hotpotqa_dev_sample.json.xz

The released codec's own 4,096-dimensional vectors need its 16 GB backbone. In their place stand two kinds of that
width over a benchmark's passages and questions: words hashed to 4,096 entries and weighted by rarity, which fill all
dimensions and are the harder case; and ``mini``'s index vectors, lifted to 4,096 random cosine features (Rahimi and
Recht, 2007), which keep a trained model's geometry. A recall takes the 256 nearest by the projected vectors and
compares their stored latents whole.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import write_table
from nextmem_agents import LatentCodec
from nextmem_agents.codec.projection import MOST, project
from nextmem_agents.evaluation.haystacks import passages
from nextmem_agents.evaluation.passages import load_benchmark
from nextmem_agents.recall.lexical import terms

WIDE = 4_096
SIZES = (256, 512, MOST, 2_048)
DEPTH = 10
CANDIDATES = 256


def main() -> None:
    """Measure each kind at each size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--passages", type=Path, required=True, help="a SQuAD or HotpotQA file")
    parser.add_argument("--questions", type=int, default=400)
    chosen = parser.parse_args()
    found = passages(load_benchmark(chosen.passages), chosen.questions)
    texts = [*(item.text for item in found.items), *(query.text for query in found.queries)]
    numbers = {item.id: n for n, item in enumerate(found.items)}
    right = torch.zeros(len(found.queries), len(found.items))
    for row, query in enumerate(found.queries):
        right[row, [numbers[id_] for id_ in query.evidence]] = 1
    rows = []
    for kind, vectors in (("words", _words(texts)), ("mini", _lifted(texts))):
        stored, asked = F.normalize(vectors, dim=-1).split([len(found.items), len(found.queries)])
        whole = asked @ stored.T
        for size in SIZES:
            narrow = F.normalize(project(asked, size), dim=-1) @ F.normalize(project(stored, size), dim=-1).T
            rows.append((kind, size, *_compared(right, whole, narrow)))
    losses = ", ".join(f"{kind} {row[3]}" for kind, size, *row in rows if size == MOST)
    write_table(
        __file__,
        "Index vectors of 4,096 dimensions, projected",
        f"{len(found.items):,} passages and {len(found.queries)} questions of {found.name}; recall@{DEPTH} of the "
        f"passages that answer. A recall's loss at {MOST:,} dimensions, which wide codecs get: {losses} (bar: 0.01). "
        "The released codec's own vectors were not to be had.",
        (
            "vectors",
            "dimensions",
            f"recall@{DEPTH} at {WIDE:,}",
            "projected",
            f"projected, best {CANDIDATES} compared whole",
            "loss of the latter",
            "standard error of it",
        ),
        rows,
    )


def _compared(right: Tensor, whole: Tensor, narrow: Tensor) -> tuple[str, str, str, str, str]:
    proposed = narrow.topk(CANDIDATES).indices
    both = torch.full_like(whole, -1).scatter(1, proposed, whole.gather(1, proposed))
    found = [
        right.gather(1, scores.topk(DEPTH).indices).sum(1) / right.sum(1) for scores in (whole, narrow, both)
    ]
    loss = found[0] - found[2]
    return (
        *(f"{recall.mean():.3f}" for recall in found),
        f"{loss.mean():.3f}",
        f"{loss.std() / math.sqrt(len(loss)):.3f}",
    )


def _words(texts: Sequence[str]) -> Tensor:
    counts = torch.zeros(len(texts), WIDE)
    for row, text in enumerate(texts):
        for term, count in terms(text).items():
            counts[row, crc32(term.encode()) % WIDE] += 1 + math.log(count)
    return counts * (len(texts) / (1 + (counts > 0).sum(0))).log()


def _lifted(texts: Sequence[str]) -> Tensor:
    codec = LatentCodec.load("mini")
    chunks = [codec.chunk(text) for text in texts]
    flat = [chunk for of_text in chunks for chunk in of_text]
    vectors = torch.cat(
        [codec.index_vectors(codec.encode(flat[start : start + 64])) for start in range(0, len(flat), 64)]
    )
    means = torch.stack([part.mean(0) for part in vectors.split([len(of_text) for of_text in chunks])])
    means = F.normalize(means, dim=-1)
    generator = torch.Generator().manual_seed(7)
    directions = torch.randn(means.shape[1], WIDE, generator=generator)
    phases = 2 * math.pi * torch.rand(WIDE, generator=generator)
    return torch.cos(means @ directions + phases)


if __name__ == "__main__":
    main()
