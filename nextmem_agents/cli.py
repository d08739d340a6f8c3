"""The command line: a thin layer of arguments over the package."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.errors import NextMemError

app = typer.Typer(
    name="nextmem",
    help="Latent factual memory for agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluate = typer.Typer(help="Measure a codec, or recall with it.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")

CodecOption = Annotated[str, typer.Option(help="A shipped codec's name or a checkpoint folder.")]
StoreOption = Annotated[Path | None, typer.Option(help="Folder of the store; by default $NEXTMEM_HOME.")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a Markdown table.")]


@app.command()
def demo(
    conversation: Annotated[
        Path | None,
        typer.Option(help="A LoCoMo file (.json, .json.xz); by default the packaged conversation."),
    ] = None,
    codec: CodecOption = "mini",
    store: Annotated[
        Path | None, typer.Option(help="Keep the store here; by default it ends with the demo.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Memories recalled for a question.")] = 5,
    details: Annotated[
        bool | None, typer.Option("--details/--no-details", help="Print every question (default: up to 50).")
    ] = None,
) -> None:
    """Let a LangChain agent read a conversation into memory and answer questions about it, offline."""
    from rich.console import Console

    from nextmem_agents.demo import run
    from nextmem_agents.evaluation.locomo import default_conversation, load_locomo

    conversations = load_locomo(conversation or default_conversation())
    few = sum(len(c.questions) for c in conversations) <= 50
    console = Console(highlight=False)
    run(conversations, console, codec=codec, store=store, k=k, details=few if details is None else details)


@app.command()
def rebuild(store: StoreOption = None, codec: CodecOption = "mini") -> None:
    """Make a store's vector index anew from its records."""
    from rich.progress import Progress

    from nextmem_agents.memory import NextMem

    with NextMem.open(store, codec=codec) as memory, Progress() as progress:
        task = progress.add_task("Indexing", total=None)
        n = memory.rebuild(lambda done, all_: progress.update(task, completed=done, total=all_))
    typer.echo(f"{n} vectors indexed")


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Folder of training texts (.jsonl, .jsonl.xz, .txt).")],
    output: Annotated[Path, typer.Option(help="Folder of the run; what it holds is resumed.")],
    config: Annotated[Path | None, typer.Option(help="Settings as JSON; by default those of `mini`.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Override the number of steps.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the trained codec into this new folder.")] = None,
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the model.")] = True,
) -> None:
    """Train a small codec from scratch, or go on with a run that was interrupted.

    On a CPU two processes of one thread each are fastest:
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m nextmem_agents.cli train …
    """
    from nextmem_agents.training.config import MINI, ScratchConfig
    from nextmem_agents.training.export import export_run
    from nextmem_agents.training.scratch import is_first_process, train_from_scratch

    settings = ScratchConfig.load(config or MINI)
    if steps is not None:
        settings = dataclasses.replace(settings, steps=steps)
    train_from_scratch(settings, data, output, compile_model=compile_model)
    if export is not None and is_first_process():
        export_run(output, export)
        typer.echo(f"codec written to {export}")


@app.command()
def convert(
    base: Annotated[Path, typer.Option(help="The backbone's folder (Qwen3-8B).")],
    stage_1: Annotated[Path, typer.Option(help="Released folder: decoder adapter and special tokens.")],
    stage_2: Annotated[Path, typer.Option(help="Released folder: encoder adapter.")],
    output: Annotated[Path, typer.Option(help="A new folder for the codec.")],
    copy_backbone: Annotated[
        bool, typer.Option(help="Copy the backbone's weights too (16 GB for 8B).")
    ] = False,
) -> None:
    """Write the paper's released checkpoint folders in this project's format: safetensors, no pickle."""
    from nextmem_agents.codec.official import convert_official

    convert_official(base, stage_1, stage_2, output, copy_backbone=copy_backbone)
    typer.echo(f"codec written to {output}")


@evaluate.command()
def reconstruction(
    data: Annotated[
        list[Path], typer.Argument(help="Text, LoCoMo, LongMemEval, SQuAD, HotpotQA or RACE files.")
    ],
    codec: CodecOption = "mini",
    limit: Annotated[int, typer.Option(min=1, help="Texts of each file and length.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Decode texts from their 4-bit latents without repair, and print how much comes back."""
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation.reconstruction import LENGTHS, measure, of_length, texts_of

    loaded = LatentCodec.load(codec)
    rows: list[dict[str, object]] = []
    for path in data:
        for low, high in LENGTHS:
            texts = of_length(loaded, texts_of(path), low, high, limit)
            if texts:
                measured = dataclasses.asdict(measure(loaded, texts))
                rows.append({"file": path.name, "length": f"{low}-{high}"} | measured)
    _print_rows(rows, as_json)


@evaluate.command()
def retrieval(
    conversation: Annotated[
        Path | None, typer.Option(help="A LoCoMo file; by default the packaged one.")
    ] = None,
    codec: CodecOption = "mini",
    as_json: JsonOption = False,
) -> None:
    """Search conversations for the evidence of their questions, beside a plain text memory (SQLite FTS5)."""
    from rich.console import Console
    from rich.progress import Progress

    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
    from nextmem_agents.evaluation.retrieval import evaluate as search

    conversations = load_locomo(conversation or default_conversation())
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Reading turns", total=sum(len(c.turns) for c in conversations))
        found = search(conversations, LatentCodec.load(codec), lambda n: progress.advance(task, n))
    _print_rows([dataclasses.asdict(row) for row in found], as_json)


def _print_rows(rows: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    names = list(rows[0]) if rows else []
    typer.echo("| " + " | ".join(name.replace("_", " ") for name in names) + " |")
    typer.echo("|" + " --- |" * len(names))
    for row in rows:
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        typer.echo("| " + " | ".join(cells) + " |")


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 1."""
    try:
        app()
    except NextMemError as error:
        typer.echo(f"nextmem: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
