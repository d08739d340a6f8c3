"""``nextmem evaluate reconstruction``: arguments to a plan, a plan to a table and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.table import rendered

N = TypeVar("N", int, float)


def reconstruction(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Text, JSONL, LoCoMo, LongMemEval, SQuAD, HotpotQA or RACE files; by default the packaged "
            "conversation."
        ),
    ] = None,
    codec: Annotated[
        str, typer.Option(help="A shipped codec's name or a checkpoint folder.")
    ] = DEFAULT_CODEC,
    limit: Annotated[int, typer.Option(min=1, help="Texts of each file and length.")] = 256,
    lengths: Annotated[
        str, typer.Option(help="Numbers of tokens that texts are cut to; 'whole': as they are.")
    ] = "16,32,64,128,whole",
    tokens_per_latent: Annotated[
        str | None, typer.Option(help="Densities to sweep, such as 8,16,32; by default the codec's own.")
    ] = None,
    levels: Annotated[
        str | None, typer.Option(help="Levels to sweep, of 2,3,4,8,16; by default the codec's own.")
    ] = None,
    refinement_steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="Gradient steps on latents before they are stored; by default the codec's own."
        ),
    ] = None,
    noise: Annotated[str, typer.Option(help="σ of noise on the latents, in units of their RMS.")] = "0",
    special: Annotated[
        bool, typer.Option("--special", help="Also names, numbers, dates, addresses, ids, code, languages.")
    ] = False,
    plots: Annotated[Path | None, typer.Option(help="Write figures (PNG) into this folder.")] = None,
    heatmap: Annotated[
        Path | None, typer.Option(help="Write a PNG of which latent holds which sentence.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the codec runs.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a Markdown table.")] = False,
) -> None:
    """Decode texts from their latents without repair, quantised and not, and print how much comes back."""
    from rich.console import Console
    from rich.progress import Progress

    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation.locomo import default_conversation
    from nextmem_agents.evaluation.plots import plot_heat_map, plot_rows, require_matplotlib
    from nextmem_agents.evaluation.sensitivity import swap_sensitivity
    from nextmem_agents.evaluation.special import special_domains
    from nextmem_agents.evaluation.sweep import Plan, sweep
    from nextmem_agents.evaluation.texts import WHOLE, read_domain

    if plots is not None or heatmap is not None:
        require_matplotlib()
    paths = data or ([] if special else [default_conversation()])
    plan = Plan(
        [*map(read_domain, paths), *(special_domains(limit) if special else ())],
        lengths=[n if n == WHOLE else _number(int, "--lengths", n) for n in lengths.split(",")],
        tokens_per_latent=_numbers(int, "--tokens-per-latent", tokens_per_latent) or [None],
        levels=_numbers(int, "--levels", levels) or [None],
        noise=_numbers(float, "--noise", noise),
        limit=limit,
    )

    def load(ratio: int | None = None, n_levels: int | None = None) -> LatentCodec:
        return LatentCodec.load(
            codec,
            tokens_per_latent=ratio,
            levels=n_levels,
            refinement_steps=refinement_steps,
            device=device,
        )

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Reconstructing", total=plan.n_rows)
        rows = list(sweep(plan, load, lambda n: progress.advance(task, n)))
    typer.echo(rendered([row.cells() for row in rows], as_json))
    written = plot_rows(rows, plots) if plots is not None else []
    if heatmap is not None:
        written.append(plot_heat_map(swap_sensitivity(load()), heatmap, f"codec {Path(codec).name}"))
    for path in written:
        typer.echo(f"figure written to {path}", err=True)


def _number(kind: type[N], option: str, text: str) -> N:
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidArgument(f"{option} takes numbers with commas between them, not {text!r}") from error


def _numbers(kind: type[N], option: str, text: str | None) -> list[N]:
    return [_number(kind, option, part) for part in text.split(",")] if text else []
