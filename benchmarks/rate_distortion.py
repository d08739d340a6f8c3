"""How much of a text comes back from how many bytes: the codec at several densities and bit widths.

    python benchmarks/rate_distortion.py --texts ../shared/data/eval/squad_dev.json.xz 8=mini 8=mini-dense:2:100

Each point is TOKENS_PER_LATENT=CODEC, measured at 4, 8 and 16 levels (2, 3 and 4 bits; 16 is NF4), or
TOKENS_PER_LATENT=CODEC:LEVELS for that number of levels alone, or TOKENS_PER_LATENT=CODEC:LEVELS:STEPS with so many
steps of refinement (0 unless said). CODEC is a shipped codec's name or a checkpoint folder; the density is its own, or
another that it was trained at. Those of the table that are not shipped are made by `nextmem train --data TEXTS --config
benchmarks/densities/NAME.json --output runs/training --export runs/NAME`.

All are measured on the same texts of 128 tokens, greedy and free-running, without repair. Writes
benchmarks/rate_distortion.md and .json, and docs/images/rate-distortion.png.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import write_table

from nextmem_agents import LatentCodec
from nextmem_agents.errors import DataError, InvalidArgument, NextMemError
from nextmem_agents.evaluation.plots import new_figure, require_matplotlib, save
from nextmem_agents.evaluation.reconstruction import measure
from nextmem_agents.evaluation.sweep import Row
from nextmem_agents.evaluation.texts import Domain, read_domain

LENGTH = 128
LEVELS = (4, 8, 16)
PLOT = Path(__file__).parents[1] / "docs" / "images" / "rate-distortion.png"
MARKERS = {2: "v", 3: "P", 4: "^", 8: "s", 16: "o"}
COLUMNS = {
    "F1": ("f1", 3),
    "fidelity": ("fidelity", 3),
    "exact": ("exact", 3),
    "F1 unquantised": ("f1_unquantised", 3),
    "characters per latent": ("characters_per_latent", 1),
    "latent bytes": ("latent_bytes", 1),
    "repair bytes": ("repair_bytes", 1),
    "payload bytes": ("payload_bytes", 1),
    "payload / text": ("payload_to_text", 2),
    "kept literally": ("literal", 3),
}
"""The table's figures: which of a row's cells they are, and their decimals."""


@dataclass(frozen=True)
class Point:
    """A codec, by name or folder, at one density, number of levels and of refinement steps."""

    tokens_per_latent: int
    codec: str
    levels: int
    steps: int = 0

    @property
    def line(self) -> str:
        """What the points of one codec at one density share."""
        refined = ", refined" if self.steps else ""
        return f"{self.tokens_per_latent} tokens a latent, {Path(self.codec).name}{refined}"

    @property
    def argument(self) -> str:
        """What asks for this point."""
        steps = f":{self.steps}" if self.steps else ""
        return f"{self.tokens_per_latent}={self.codec}:{self.levels}{steps}"


def points(argument: str) -> list[Point]:
    """The points that an argument stands for.

    >>> points("8=mini-dense:2:100")
    [Point(tokens_per_latent=8, codec='mini-dense', levels=2, steps=100)]
    """
    found = re.fullmatch(r"(\d+)=(.+?)(?::(\d+)(?::(\d+))?)?", argument)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{argument!r} is not TOKENS_PER_LATENT=CODEC[:LEVELS[:STEPS]], such as 8=mini or 8=mini-dense:2:100"
        )
    density, codec, levels, steps = found.groups()
    return [Point(int(density), codec, n, int(steps or 0)) for n in ((int(levels),) if levels else LEVELS)]


def load(point: Point) -> LatentCodec:
    """The codec of a point.

    Raises:
        CheckpointError: there is no such codec.
        InvalidArgument: a density that it was not trained at, levels that it cannot have, or chunks that are too short.
    """
    codec = LatentCodec.load(
        point.codec,
        tokens_per_latent=point.tokens_per_latent,
        levels=point.levels,
        refinement_steps=point.steps,
        device="cpu",
    )
    if codec.max_tokens < LENGTH:
        raise InvalidArgument(
            f"{point.codec}: a chunk has at most {codec.max_tokens} tokens; {LENGTH} are needed"
        )
    return codec


def common_texts(codecs: Sequence[LatentCodec], domain: Domain, limit: int) -> list[str]:
    """Texts that have LENGTH tokens for each of the codecs.

    Raises:
        DataError: there are none.
        InvalidArgument: a codec has another tokenizer than the first.
    """
    texts = domain.of(codecs[0], LENGTH, limit)
    if not texts:
        raise DataError(f"{domain.name} holds no text of {LENGTH} tokens")
    for codec in codecs[1:]:
        if any(codec.count_tokens(text) != LENGTH for text in texts):
            raise InvalidArgument(
                f"codec {codec.config.name!r} has another tokenizer than {codecs[0].config.name!r}: the same texts "
                f"are not {LENGTH} tokens to both. Measure them apart"
            )
    return texts


def trained_tokens(folder: Path | None) -> str | None:
    """How many tokens a codec was trained on, in the words of its model card's section "Training", or None.

    Of a codec that went on from another's weights the card counts only what came on top, so the other is named.
    """
    card = folder / "README.md" if folder is not None else None
    if card is None or not card.is_file():
        return None
    section = card.read_text(encoding="utf-8").partition("\n## Training\n")[2].partition("\n## ")[0]
    found = re.search(r"([\d.,]+ [mb]illion) tokens|tokens \(([\d.,]+ [mb]illion)\)", section)
    if found is None:
        return None
    before = re.search(r"from the\s+weights\s+of `([\w-]+)`", section)
    return (found[1] or found[2]) + (f", on from {before[1]}" if before else "")


def bits(levels: int) -> str:
    """Bits of a number that takes so many values.

    >>> bits(3), bits(16)
    ('1.6', '4')
    """
    return f"{math.log2(levels):.2g}"


def plot(measured: Sequence[tuple[Point, dict[str, Any]]], path: Path, title: str) -> Path:
    """Payload bytes per byte of text against F1: a line for each codec and density, a marker for each bit width."""
    figure, axes = new_figure("payload bytes per byte of text", "word F1, free-running, without repair")
    lines: dict[tuple[int, str, bool], list[tuple[Point, dict[str, Any]]]] = {}
    for point, cells in measured:
        of_line = point.tokens_per_latent, point.codec, point.steps > 0
        lines.setdefault(of_line, []).append((point, cells))
    drawn = []
    for number, (_, group) in enumerate(sorted(lines.items())):
        group.sort(key=lambda each: each[0].levels)
        rates = [cells["payload_to_text"] for _, cells in group]
        scores = [cells["f1"] for _, cells in group]
        drawn += axes.plot(rates, scores, "-", color=f"C{number}", label=group[0][0].line)
        for (point, _), x, y in zip(group, rates, scores, strict=True):
            axes.plot(x, y, MARKERS[point.levels], color=f"C{number}")
    drawn.append(axes.axvline(1.0, color="grey", ls=":", lw=1, label="the text's own size"))
    # Grey and off the line: these stand for a shape in any colour.
    shapes = [
        axes.plot([], [], MARKERS[n], color="grey", label=f"{bits(n)} bit{'' if n == 2 else 's'}")[0]
        for n in sorted({point.levels for point, _ in measured})
    ]
    axes.set_title(title, size=9)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(handles=[*drawn, *shapes], fontsize=7)
    return save(figure, path)


def main() -> None:
    """Measure each point, write the table and draw the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", type=points, nargs="+", metavar="TOKENS=CODEC[:LEVELS[:STEPS]]")
    parser.add_argument("--texts", type=Path, required=True, help="a file that no codec was trained on")
    parser.add_argument("--limit", type=int, default=48, help="texts")
    parser.add_argument("--output", type=Path, help="write the table and the plot into this folder instead")
    chosen = parser.parse_args()
    if chosen.limit < 1:
        parser.error("--limit is a number of texts from 1")
    # A point that is named twice is measured once.
    wanted = list(dict.fromkeys(point for group in chosen.points for point in group))
    try:
        require_matplotlib()
        domain = read_domain(chosen.texts)
        # All of them before anything is measured: what is wrong is refused at once.
        codecs = [load(point) for point in wanted]
        texts = common_texts(codecs, domain, chosen.limit)
    except NextMemError as error:
        parser.error(str(error))

    measured: list[tuple[Point, dict[str, Any]]] = []
    rows: list[list[object]] = []
    for point, codec in zip(wanted, codecs, strict=True):
        found = measure(codec, texts)
        cells = Row(
            domain.name, LENGTH, point.tokens_per_latent, point.levels, point.steps, 0.0, found
        ).cells()
        measured.append((point, cells))
        figures = [f"{cells[name]:.{digits}f}" for name, digits in COLUMNS.values()]
        trained = trained_tokens(codec.folder) or "–"
        named = [point.tokens_per_latent, point.codec, trained, bits(point.levels), point.steps]
        rows.append([*named, *figures])
        print(f"{point.argument}: F1 {cells['f1']:.3f}", file=sys.stderr, flush=True)

    folder: Path = chosen.output or Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    what = f"{len(texts)} texts of {LENGTH} tokens, {chosen.texts.name}"
    drawn = plot(measured, folder / PLOT.name if chosen.output else PLOT, what)
    asked = " ".join(point.argument for point in wanted)
    write_table(
        str(folder / Path(__file__).name),
        "Rate and distortion",
        f"{what} ({cells['text_bytes']:.1f} bytes each), the same for all and never trained on; greedy and "
        "free-running, without repair, F1 over white-space separated words. Bytes are means per text: latents, "
        "repair, and the whole payload with its header, from which the text comes back exactly. A text whose "
        "repair would cost as much as it does is kept literally, without latents or repair. "
        f"Points: `{asked}` ([plot]({_link(drawn, folder)})).",
        ["tokens per latent", "codec", "tokens trained on", "bits", "refinement steps", *COLUMNS],
        rows,
    )


def _link(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


if __name__ == "__main__":
    main()
