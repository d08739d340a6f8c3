"""Commands about this machine: doctor, bench."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from nextmem_agents.cli import exits
from nextmem_agents.cli.options import CodecOption, JsonOption, StoreCodecOption, StoreOption, examples
from nextmem_agents.cli.output import print_json, progress, waiting
from nextmem_agents.codec import DEFAULT_CODEC

upkeep = typer.Typer()
PANEL = "This machine"
_COLOURS = {"ok": typer.colors.GREEN, "note": typer.colors.YELLOW, "bad": typer.colors.RED}


@upkeep.command(
    rich_help_panel=PANEL, epilog=examples("doctor", "doctor --store ./agent-memory --texts --json")
)
def doctor(
    store: StoreOption = None,
    codec: StoreCodecOption = None,
    texts: Annotated[bool, typer.Option("--texts", help="Decode every stored text, too. Slow.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, which codec and device are used, whether the store is sound, and what to do.

    Looks only: nothing is written or mended. Ends with exit code 4 if something does not work.
    """
    from nextmem_agents.cli.diagnosis import diagnose

    bad = 0
    with waiting("Looking"):
        findings = list(diagnose(store, codec, texts))
    for finding in findings:
        bad += finding.status == "bad"
        if as_json:
            print_json(dataclasses.asdict(finding))
            continue
        mark = typer.style(f"{finding.status:<5}", fg=_COLOURS[finding.status])
        typer.echo(f"{mark}{finding.subject:<24}{finding.detail}")
        if finding.advice:
            typer.echo(f"{'':<29}→ {finding.advice}")
    if not as_json:
        typer.echo(f"{bad} things do not work" if bad else "everything works")
    if bad:
        raise typer.Exit(exits.DAMAGED)


@upkeep.command(rich_help_panel=PANEL, epilog=examples("bench", "bench --seconds 20 --json"))
def bench(
    codec: CodecOption = DEFAULT_CODEC,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long to measure.")] = 45.0,
    batch: Annotated[
        int, typer.Option(min=2, help="Texts at once, where several are measured together.")
    ] = 32,
    as_json: JsonOption = False,
) -> None:
    """Measure encode, decode, remember and recall on this machine, in milliseconds and ratios.

    Medians over the packaged conversation, in a store that ends with the command. The tables of the documentation
    come from `benchmarks/`, which compares with more.
    """
    with waiting("Loading the codec"):
        from nextmem_agents.cli.timing import ROWS, machine, measure
        from nextmem_agents.codec.latent_codec import LatentCodec

        loaded = LatentCodec.load(codec)
    rows = []
    with progress("Measuring") as advance:
        for row in measure(loaded, seconds, batch):
            rows.append(row)
            advance(len(rows), ROWS)
    where = machine()
    if as_json:
        print_json({"codec": loaded.config.name, **where, "rows": [dataclasses.asdict(row) for row in rows]})
        return
    typer.echo(
        f"codec {loaded.config.name} on {where['machine']}, {where['threads']} threads, torch {where['torch']}"
    )
    typer.echo(f"{'':<44}{'batch':>6}{'ms':>10}{'ms/text':>10}   ratio")
    for row in rows:
        ratio = f"   {row.ratio:.2f} × {row.against}" if row.ratio is not None else ""
        typer.echo(f"{row.operation:<44}{row.batch:>6}{row.ms:>10.2f}{row.ms_per_text:>10.2f}{ratio}")
