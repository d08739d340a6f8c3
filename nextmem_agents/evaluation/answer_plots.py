"""Figures of question answering, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nextmem_agents.evaluation.answer_report import Row
from nextmem_agents.evaluation.benchmark import Benchmark
from nextmem_agents.evaluation.plots import new_figure, save


def plot_answers(rows: Sequence[Row], benchmark: Benchmark, folder: Path) -> list[Path]:
    """Scores by category, and score against the context that it took.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    return [
        _by_category(rows, benchmark, folder / "categories.png"),
        _by_context(rows, benchmark, folder / "context.png"),
    ]


def _by_category(rows: Sequence[Row], benchmark: Benchmark, path: Path) -> Path:
    figure, axes = new_figure("", benchmark.metric)
    width = 0.8 / max(1, len(rows))
    for i, row in enumerate(rows):
        places = [n + i * width for n in range(len(benchmark.categories))]
        axes.bar(places, [row.categories[c] for c in benchmark.categories], width, label=row.memory)
    middle = width * (len(rows) - 1) / 2
    axes.set_xticks(
        [n + middle for n in range(len(benchmark.categories))],
        [c + (" (apart)" if c in benchmark.apart else "") for c in benchmark.categories],
        rotation=15,
        fontsize=7,
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=7)
    return save(figure, path)


def _by_context(rows: Sequence[Row], benchmark: Benchmark, path: Path) -> Path:
    figure, axes = new_figure("positions of memory in the prompt, tokens and latents", benchmark.metric)
    for row in rows:
        x = row.text_tokens + row.latent_positions
        axes.plot([x], [row.score], "o")
        axes.annotate(row.memory, (x, row.score), textcoords="offset points", xytext=(5, 4), fontsize=7)
    # No memory takes no position, which a logarithm cannot show.
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=-1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return save(figure, path)
