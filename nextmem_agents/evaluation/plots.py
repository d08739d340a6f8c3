"""Figures of reconstruction, as PNG files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nextmem_agents.errors import MissingExtra
from nextmem_agents.evaluation.sensitivity import Sensitivity
from nextmem_agents.evaluation.sweep import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

K = TypeVar("K", bound=Hashable)
_SIZE, _DPI = (7.0, 4.4), 150


def require_matplotlib() -> None:
    """Raise MissingExtra where matplotlib is not installed: better before hours of measuring than after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("plots need matplotlib: pip install 'nextmem-agents[eval]'")


def plot_rows(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The figures that rows have something to show for: by length, by noise, and rate against distortion.

    Args:
        rows: of one sweep.
        folder: made if need be; figures of the same names are overwritten.

    Returns:
        The files written.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figures: dict[str, Figure] = {}
    if len({row.length for row in rows if isinstance(row.length, int)}) > 1:
        figures["length"] = _by_length(rows)
    if len({row.noise for row in rows}) > 1:
        figures["noise"] = _by_noise(rows)
    if len({(row.tokens_per_latent, row.levels) for row in rows}) > 1:
        figures["rate-distortion"] = _rate_distortion(rows)
    folder.mkdir(parents=True, exist_ok=True)
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def plot_heat_map(found: Sensitivity, path: Path, title: str = "") -> Path:
    """Sentences down, latents across; the frames show where each sentence's tokens lie.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure, axes = new_figure("latent", "sentence in which a word was swapped")
    image = axes.imshow(found.change.numpy(), cmap="magma", aspect="auto", vmin=0)
    figure.colorbar(image, label="relative change of the latent")
    from matplotlib.patches import Rectangle

    for i, (begin, end) in enumerate(found.spans):
        # Cells are centred on whole numbers.
        frame = Rectangle((begin - 0.5, i - 0.45), end - begin, 0.9, fill=False, edgecolor="cyan", lw=1.2)
        axes.add_patch(frame)
    axes.set_yticks(range(len(found.spans)), [str(i + 1) for i in range(len(found.spans))])
    inside, chance = found.share_inside(), found.share_by_chance()
    axes.set_title(f"{title}\n{inside:.0%} of the change inside the frames (chance {chance:.0%})".strip())
    return save(figure, path)


def _by_length(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure("tokens of text", "word F1 (free-running)")
    cut = [row for row in rows if isinstance(row.length, int) and row.noise == 0]
    for name, group in _grouped(cut, _series(cut)).items():
        group.sort(key=lambda row: int(row.length))
        axes.plot(
            [row.length for row in group], [row.measured.quantised.f1 for row in group], "o-", label=name
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({int(row.length) for row in cut})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    return _finished(figure, axes)


def _by_noise(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure("noise σ / RMS of the latents", "word F1 (free-running)")
    name_of = _series(rows)
    for name, group in _grouped(rows, lambda row: f"{name_of(row)} {row.length}").items():
        group.sort(key=lambda row: row.noise)
        axes.plot(
            [row.noise for row in group], [row.measured.quantised.f1 for row in group], "o-", label=name
        )
    return _finished(figure, axes)


def _rate_distortion(rows: Sequence[Row]) -> Figure:
    """Bytes of latents against F1, at the greatest length that all were measured at."""
    figure, axes = new_figure("bytes of latents per byte of text", "word F1 (free-running)")
    longest = max((row.length for row in rows if isinstance(row.length, int)), default=None)
    chosen = [row for row in rows if row.noise == 0 and (longest is None or row.length == longest)]
    for name, group in _grouped(chosen, lambda row: f"{row.domain}, {row.levels} levels").items():
        points = sorted(
            (
                row.measured.latent_bytes / row.measured.text_bytes,
                row.measured.quantised.f1,
                row.tokens_per_latent,
            )
            for row in group
        )
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", label=name)
        for x, y, ratio in points:
            axes.annotate(f"{ratio}", (x, y), textcoords="offset points", xytext=(4, -10), size=7)
    axes.axvline(1.0, color="grey", ls=":", lw=1)
    axes.set_title(
        f"beside each point: tokens per latent; texts of {longest or 'any number of'} tokens", size=9
    )
    return _finished(figure, axes)


def _series(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Names a row by its domain, and by density and levels where these differ."""
    several = len({(row.tokens_per_latent, row.levels) for row in rows}) > 1
    return lambda row: (
        row.domain + (f", {row.tokens_per_latent} a latent, {row.levels} levels" if several else "")
    )


def _grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    groups: dict[K, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def new_figure(x: str, y: str) -> tuple[Figure, Axes]:
    """An empty figure with named axes.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    require_matplotlib()
    # Not pyplot: it keeps every figure, and picks a window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _finished(figure: Figure, axes: Axes) -> Figure:
    axes.set_ylim(bottom=min(0.9, axes.get_ylim()[0]), top=1.005)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
