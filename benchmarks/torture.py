"""Kill the store while it writes, a hundred times in each layout, and count what is lost: ``make torture``."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import write_table
from tests.torture.kills import Outcome, torture
from tests.torture.layouts import LAYOUTS

HEADER = (
    "layout",
    "kill -9",
    "of them the server",
    "acknowledged calls",
    "lost or half-written",
    "reopening, median / worst (s)",
    "first search, median / worst (s)",
    "memories",
    "minutes",
)
PARTS = Path(__file__).with_name("torture.parts.json")


def main() -> None:
    """Torture, write the table, and end with an error if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="in each layout")
    parser.add_argument("--memories", type=int, default=10_000, help="in the store beforehand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", nargs="+", default=["embedded", "server"], choices=LAYOUTS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many in each layout")
    parser.add_argument("--resume", action="store_true", help="go on with what an earlier call left undone")
    chosen = parser.parse_args()
    if not chosen.resume:
        PARTS.unlink(missing_ok=True)
    for layout in chosen.layouts:
        parts = [part for part in _parts() if part.layout == layout]
        left = chosen.kills - sum(part.kills for part in parts)
        if left <= 0:
            continue
        with tempfile.TemporaryDirectory(prefix="nextmem-torture-") as folder:
            outcome = torture(
                layout,
                Path(folder),
                left,
                chosen.memories,
                # Other moments and other steps than in the parts before.
                chosen.seed + 1_000 * len(parts),
                lambda line: print(line, flush=True),
                chosen.minutes * 60,
            )
        PARTS.write_text(json.dumps([asdict(part) for part in [*_parts(), outcome]]), encoding="utf-8")
    outcomes = _parts()
    write_table(
        __file__,
        "Torture",
        f"Writers killed with SIGKILL at random moments in stores of {chosen.memories:,} memories, and in the server "
        "layout every third time the Chroma server itself. After each kill every memory that the kill may have "
        "touched is read, compared byte by byte and searched for by vector and by word; after the last kill of a "
        "part every memory is, and the index is compared with the records vector by vector.",
        HEADER,
        [_row(outcome) for outcome in outcomes],
    )
    if any(outcome.losses for outcome in outcomes):
        sys.exit("\n".join(loss for outcome in outcomes for loss in outcome.losses))


def _parts() -> list[Outcome]:
    if not PARTS.exists():
        return []
    return [Outcome(**part) for part in json.loads(PARTS.read_text(encoding="utf-8"))]


def _row(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.layout,
        outcome.kills,
        outcome.server_kills,
        f"{outcome.acknowledged:,}",
        len(outcome.losses),
        _times(outcome.openings),
        _times(outcome.first_searches),
        f"{outcome.memories:,}",
        f"{outcome.seconds / 60:.1f}",
    )


def _times(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} / {max(seconds):.2f}"


if __name__ == "__main__":
    main()
