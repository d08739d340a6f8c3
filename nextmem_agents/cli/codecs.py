"""Commands about codecs: prepare, convert; ``train`` and ``evaluate`` are mounted beside them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.cli.options import JsonOption, TableJsonOption, examples
from nextmem_agents.cli.output import print_json, waiting
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.table import rendered

codecs = typer.Typer()
PANEL = "Codecs"


@codecs.command(
    rich_help_panel=PANEL,
    epilog=examples(
        "prepare notes.txt chat.jsonl --output data --evaluation squad.json", "prepare --sources"
    ),
)
def prepare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Plain text (.txt, .md), chat logs, .json or .jsonl, also with .xz."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the training files, NAME.jsonl.xz.")] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="A file to keep out of training: texts that share 13 words in a row. Repeatable."),
    ] = None,
    similarity: Annotated[
        float, typer.Option(help="Shared word 5-grams from which two texts are near duplicates (Jaccard).")
    ] = 0.8,
    sources: Annotated[
        bool, typer.Option("--sources", help="Print where public training text is to be had, with licences.")
    ] = False,
    as_json: TableJsonOption = False,
) -> None:
    """Turn texts and chat logs into training files, without repeats and without evaluation text."""
    from rich.console import Console
    from rich.progress import Progress

    from nextmem_agents.training.preparation import prepare as prepare_files
    from nextmem_agents.training.preparation import public_sources

    if sources:
        typer.echo(rendered(public_sources(), as_json))
        return
    if not files or output is None:
        raise InvalidArgument("give files to prepare and --output FOLDER, or --sources alone")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Preparing", total=len(files))
        found = prepare_files(files, output, evaluation or (), similarity, lambda _: progress.advance(task))
    typer.echo(rendered([dataclasses.asdict(row) for row in found], as_json))
    typer.echo(f"training files written to {output}", err=True)


@codecs.command(
    rich_help_panel=PANEL,
    epilog=examples(
        "convert --base Qwen3-8B --stage-1 stage_1_checkpoint-3092 --stage-2 stage_2_checkpoint-15 --output ./8b"
    ),
)
def convert(
    base: Annotated[Path, typer.Option(help="The backbone's folder (Qwen3-8B).")],
    stage_1: Annotated[Path, typer.Option(help="Released folder: decoder adapter and special tokens.")],
    stage_2: Annotated[Path, typer.Option(help="Released folder: encoder adapter.")],
    output: Annotated[Path, typer.Option(help="A new folder for the codec.")],
    copy_backbone: Annotated[
        bool, typer.Option(help="Copy the backbone's weights too (16 GB for 8B).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the paper's released checkpoint folders in this project's format: safetensors, no pickle."""
    from nextmem_agents.codec.official import convert_official

    with waiting("Converting"):
        convert_official(base, stage_1, stage_2, output, copy_backbone=copy_backbone)
    if as_json:
        written = json.loads((output / "nextmem.json").read_text(encoding="utf-8"))
        print_json({"codec": str(output), "fingerprint": written.get("fingerprint")})
    else:
        typer.echo(f"codec written to {output}")
