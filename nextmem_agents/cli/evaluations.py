"""``nextmem evaluate``: each figure beside a control, from the command that prints it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.cli.options import CodecOption, TableJsonOption, examples
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.evaluation.agent_commands import locomo, longmemeval, qa
from nextmem_agents.evaluation.commands import reconstruction
from nextmem_agents.evaluation.retrieval_commands import retrieval
from nextmem_agents.evaluation.table import rendered

evaluate = typer.Typer(help="Measure a codec, or recall with it.", no_args_is_help=True)
evaluate.command(epilog=examples("evaluate reconstruction notes.txt --lengths 32,64 --json"))(reconstruction)
evaluate.command(epilog=examples("evaluate qa", "evaluate qa squad-dev.json --limit 2 --output runs/qa"))(qa)
evaluate.command(epilog=examples("evaluate locomo", "evaluate locomo locomo10.json --output runs/locomo"))(
    locomo
)
evaluate.command(epilog=examples("evaluate longmemeval longmemeval_s.json --output runs/lme"))(longmemeval)

ConversationOption = Annotated[Path | None, typer.Option(help="A LoCoMo file; by default the packaged one.")]


evaluate.command(
    epilog=examples(
        "evaluate retrieval", "evaluate retrieval --conversation locomo10.json --cross-validate --json"
    )
)(retrieval)


@evaluate.command(
    "latents", epilog=examples("evaluate latents", "evaluate latents --squad dev-v1.1.json --json")
)
def latent_search(
    conversation: ConversationOption = None,
    squad: Annotated[
        Path | None, typer.Option(help="Search the paragraphs of this SQuAD file instead.")
    ] = None,
    limit: Annotated[int, typer.Option(min=10, help="Paragraphs of the SQuAD file.")] = 500,
    codec: CodecOption = DEFAULT_CODEC,
    as_json: TableJsonOption = False,
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
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Encoding", total=sum(len(c.passages) for c in collections))
        found = search.evaluate(collections, LatentCodec.load(codec), lambda n: progress.advance(task, n))
    typer.echo(rendered([dataclasses.asdict(row) for row in found], as_json))


@evaluate.command(epilog=examples("evaluate reading --codec mini --limit 50 --json"))
def reading(
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions with contexts and answers (.jsonl, .jsonl.xz); by default made-up facts."
        ),
    ] = None,
    codec: CodecOption = DEFAULT_CODEC,
    limit: Annotated[int, typer.Option(min=1, help="Questions.")] = 200,
    memories: Annotated[int, typer.Option(min=1, help="Made-up facts in one prompt, one of them right.")] = 2,
    as_json: TableJsonOption = False,
) -> None:
    """Ask a codec's reader from text, from decompressed text, from injected latents, and from nothing."""
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation.reading import evaluate as read
    from nextmem_agents.evaluation.reading import held_out_facts, questions_of

    loaded = LatentCodec.load(codec)
    asked = held_out_facts(limit, memories) if questions is None else questions_of(questions, loaded, limit)
    typer.echo(rendered([dataclasses.asdict(row) for row in read(loaded, asked)], as_json))
