"""``nextmem encode``: whole corpora into a scope or a portable file."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.cli.opening import is_server, location, opened, settings
from nextmem_agents.cli.options import JsonOption, ScopeOption, StoreCodecOption, StoreOption, examples
from nextmem_agents.cli.output import print_json, progress
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.errors import InvalidArgument

corpora = typer.Typer()


class Split(str, Enum):
    """What one memory of a text file is."""

    paragraphs = "paragraphs"
    lines = "lines"
    file = "file"


@corpora.command(
    rich_help_panel="The store",
    epilog=examples(
        "encode notes/ --scope handbook",
        "encode corpus.jsonl.gz --scope wiki --workers 4",
        "encode corpus.jsonl --output wiki.jsonl --json",
        "encode /shared/corpus --store http://chroma:8000 --scope wiki --ray --workers 16",
    ),
)
def encode(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Files or folders: .txt, .md, .jsonl; also with .gz, .xz, .bz2."
        ),
    ],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a file that `import` reads, and no store.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that encode, each with its own codec.")] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts that are encoded and written together.")
    ] = 256,
    split: Annotated[Split, typer.Option(help="What one memory of a text file is.")] = Split.paragraphs,
    text_field: Annotated[str, typer.Option(help="The field of a JSON line that holds the text.")] = "text",
    device: Annotated[
        str, typer.Option(help="Where the codecs run; cuda gives each worker a GPU in turn.")
    ] = "cpu",
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Encrypt the scope under a key of its own.")
    ] = False,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Work on a Ray cluster; files and server must be reachable from its nodes."
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The cluster, such as auto; by default one on this machine."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remember a whole corpus, streaming; run again after any interruption, it goes on where it was.

    A line of a .jsonl file is a string or an object with `text` and, if you like, `id`, `session`, `role`,
    `occurred_at` and `metadata`. Without an id, one is derived from the file's name, the position in it, and the text.
    A text that is there already under its id is not encoded again; under the same id, another text replaces it.

    With a folder, --workers encode and one process writes; with a server, every worker writes.
    """
    from nextmem_agents.corpus.bulk import Bulk, Totals
    from nextmem_agents.corpus.documents import sources
    from nextmem_agents.corpus.encoding import Recipe, load_codec

    if ray and (output is not None or not is_server(store)):
        raise InvalidArgument(
            "--ray writes to a Chroma server: give --store http://host:port; a folder or a file has one writer, on "
            "this machine (--workers)"
        )
    if encrypted and (output is not None or is_server(store)):
        raise InvalidArgument("--encrypted is for a folder; an exported file is readable by whoever has it")
    found = sources(paths)
    if codec is None:
        codec = DEFAULT_CODEC if output is not None else _codec_of(store)
    plan = Bulk(found, Recipe(codec, scope, device), workers, batch_size, split.value, text_field)
    totals, started = Totals(), time.perf_counter()
    with progress("Encoding", "texts") as advance:
        if output is not None:
            steps = plan.into_file(output)
        elif ray:
            steps = plan.on_ray(str(store), settings(), ray_address)
        elif is_server(store):
            steps = plan.into_server(str(store), settings())
        else:
            with opened(store, codec if device == "cpu" else load_codec(plan.recipe)) as memory:
                for totals in plan.into_folder(memory, encrypted=encrypted):
                    advance(totals.read, None)
            steps = iter(())
        for totals in steps:
            advance(totals.read, None)
    seconds = time.perf_counter() - started
    place = str(output if output is not None else location(store))
    if as_json:
        print_json(
            {
                "read": totals.read,
                "written": totals.written,
                "there_before": totals.there_before,
                "seconds": round(seconds, 3),
                "texts_per_second": round(totals.written / seconds, 2),
                "destination": place,
                "scope": scope,
            }
        )
    else:
        typer.echo(
            f"{totals.written:,} texts written to {place}, {totals.there_before:,} were there before; {seconds:.1f} s, "
            f"{totals.written / seconds:.0f} texts/s"
        )


def _codec_of(store: str | None) -> str:
    """The name of the shipped codec that wrote a store, or is to write a new one."""
    with opened(store, None) as memory:
        return memory.codec.config.name
