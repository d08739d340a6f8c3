"""The command line: a thin layer of arguments over the package."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.errors import InvalidArgument, NextMemError
from nextmem_agents.evaluation.commands import reconstruction
from nextmem_agents.evaluation.table import rendered
from nextmem_agents.training.commands import train

app = typer.Typer(
    name="nextmem",
    help="Latent factual memory for agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluate = typer.Typer(help="Measure a codec, or recall with it.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")
evaluate.command()(reconstruction)
app.add_typer(train, name="train")

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
    as_json: JsonOption = False,
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
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Preparing", total=len(files))
        found = prepare_files(files, output, evaluation or (), similarity, lambda _: progress.advance(task))
    typer.echo(rendered([dataclasses.asdict(row) for row in found], as_json))
    typer.echo(f"training files written to {output}", err=True)


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
    typer.echo(rendered([dataclasses.asdict(row) for row in found], as_json))


@evaluate.command("latents")
def latent_search(
    conversation: Annotated[
        Path | None, typer.Option(help="A LoCoMo file; by default the packaged one.")
    ] = None,
    squad: Annotated[
        Path | None, typer.Option(help="Search the paragraphs of this SQuAD file instead.")
    ] = None,
    limit: Annotated[int, typer.Option(min=10, help="Paragraphs of the SQuAD file.")] = 500,
    codec: CodecOption = "mini",
    as_json: JsonOption = False,
) -> None:
    """Search by latents alone, pooled and by late interaction, beside words alone (SQLite FTS5)."""
    from rich.console import Console
    from rich.progress import Progress

    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation import latent_search as search
    from nextmem_agents.evaluation.locomo import default_conversation, load_locomo

    if squad is not None:
        collections = [search.squad_collection(squad, limit)]
    else:
        collections = [
            search.conversation_collection(c) for c in load_locomo(conversation or default_conversation())
        ]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Encoding", total=sum(len(c.passages) for c in collections))
        found = search.evaluate(collections, LatentCodec.load(codec), lambda n: progress.advance(task, n))
    typer.echo(rendered([dataclasses.asdict(row) for row in found], as_json))


@evaluate.command()
def reading(
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions with contexts and answers (.jsonl, .jsonl.xz); by default made-up facts."
        ),
    ] = None,
    codec: CodecOption = "mini",
    limit: Annotated[int, typer.Option(min=1, help="Questions.")] = 200,
    memories: Annotated[int, typer.Option(min=1, help="Made-up facts in one prompt, one of them right.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Ask a codec's reader from text, from decompressed text, from injected latents, and from nothing."""
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation.reading import evaluate as read
    from nextmem_agents.evaluation.reading import held_out_facts, questions_of

    loaded = LatentCodec.load(codec)
    asked = held_out_facts(limit, memories) if questions is None else questions_of(questions, loaded, limit)
    typer.echo(rendered([dataclasses.asdict(row) for row in read(loaded, asked)], as_json))


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 1."""
    try:
        app()
    except NextMemError as error:
        typer.echo(f"nextmem: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
