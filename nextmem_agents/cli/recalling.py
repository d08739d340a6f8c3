"""Commands that read memories: recall, ask, list, show."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from nextmem_agents.cli.opening import opened
from nextmem_agents.cli.options import (
    AsOfOption,
    JsonOption,
    KOption,
    ScopeOption,
    StoreCodecOption,
    StoreOption,
    WhereOption,
    examples,
    pairs,
    texts_of,
    time_of,
)
from nextmem_agents.cli.output import memory_fields, memory_lines, print_json, waiting

recalling = typer.Typer()
PANEL = "Memories"


class Ranking(str, Enum):
    """How recall ranks."""

    hybrid = "hybrid"
    latent = "latent"
    lexical = "lexical"


class Mode(str, Enum):
    """How memories reach the reader."""

    auto = "auto"
    decompress = "decompress"
    inject = "inject"
    mixed = "mixed"


@recalling.command(
    rich_help_panel=PANEL,
    epilog=examples(
        'recall "Where does she live?" --scope alice',
        'recall "What happened in May?" -k 3 --where role=user --json | jq -r .text',
        'recall "the ferry" --prompt --max-tokens 512',
    ),
)
def recall(
    query: Annotated[str, typer.Argument(help="A question or any text; - reads standard input.")],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    k: KOption = 5,
    where: WhereOption = None,
    ranking: Annotated[Ranking, typer.Option(help="Words and latents, or one alone.")] = Ranking.hybrid,
    as_of: AsOfOption = None,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Print the quoted block that goes into a prompt.")
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Budget of --prompt.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Search a scope; print the memories that answer best, decoded exactly."""
    [text] = texts_of([query], False)
    filters, when = pairs("--where", where), time_of("--as-of", as_of)
    with opened(store, codec, read_only=True) as memory, waiting("Recalling"):
        hits = memory.scope(scope).recall(text, k, where=filters, ranking=ranking.value, as_of=when)
        hits.decode()
        if prompt:
            block = hits.as_prompt(max_tokens)
    if prompt:
        if as_json:
            print_json({"prompt": block, "memories": len(hits)})
        else:
            typer.echo(block)
        return
    for hit in hits:
        if as_json:
            parts = {part.name: {"value": part.value, "weight": part.weight} for part in hit.explain().parts}
            more = {"score": hit.score, "parts": parts, "fidelity": hit.fidelity, "latents": hit.n_latents}
            print_json(memory_fields(hit) | more)
        else:
            typer.echo(memory_lines(hit, hit.score))
    if not len(hits) and not as_json:
        typer.echo(f"nothing in scope {scope!r} matches", err=True)


@recalling.command(
    rich_help_panel=PANEL,
    epilog=examples(
        'ask "Where does she live?" --scope alice', 'ask "When is the ferry?" --mode decompress --json'
    ),
)
def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads standard input.")],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    k: KOption = 5,
    where: WhereOption = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="inject: the codec itself answers from latents; decompress: from text; mixed: from both."
        ),
    ] = Mode.auto,
    as_json: JsonOption = False,
) -> None:
    """Answer a question from memory.

    The reply is the recalled sentence that fits best, word for word. With --mode inject or mixed the codec's own reader
    answers, if it has one (mini marks a few words in the memories); the released codec on Qwen3-8B answers unasked.
    """
    [text] = texts_of([question], False)
    with opened(store, codec, read_only=True) as memory, waiting("Answering"):
        answer = memory.scope(scope).answer(text, k=k, mode=mode.value, where=pairs("--where", where))
        sources = [memory_fields(hit) | {"score": hit.score} for hit in answer.hits] if as_json else []
    if as_json:
        keys = ("mode", "reader", "context_tokens")
        print_json(
            {"answer": answer.text, **{key: getattr(answer, key) for key in keys}, "memories": sources}
        )
    else:
        from nextmem_agents.recall.rendering import escape

        typer.echo("\n".join(map(escape, answer.text.splitlines())))
        typer.echo(
            f"({answer.mode}, {len(answer.hits)} memories, {answer.context_tokens} context tokens)", err=True
        )


@recalling.command(
    "list",
    rich_help_panel=PANEL,
    epilog=examples(
        "list --scope alice --newest-first --limit 10", "list --where role=user --json > memories.jsonl"
    ),
)
def list_(
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    where: WhereOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many.")] = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on after this memory.")] = None,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="The other way round.")] = False,
    as_of: AsOfOption = None,
    scopes: Annotated[bool, typer.Option("--scopes", help="List the scopes of the store instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the memories of a scope in the order they were written, a line each."""
    filters, when = pairs("--where", where), time_of("--as-of", as_of)
    with opened(store, codec, read_only=True) as memory:
        if scopes:
            from nextmem_agents.recall.rendering import escape

            for name in memory.scopes():
                count = memory.scope(name).count()
                if as_json:
                    print_json({"scope": name, "memories": count})
                else:
                    typer.echo(f"{count:>8}  {escape(name)}")
            return
        found = memory.scope(scope).list(
            where=filters, newest_first=newest_first, limit=limit, after=after, as_of=when
        )
        for item in found:
            if as_json:
                print_json(memory_fields(item))
            else:
                typer.echo(memory_lines(item, width=100))


@recalling.command(
    rich_help_panel=PANEL,
    epilog=examples("show 6f1c… --scope alice", "show ferry --history", "show ferry --raw > f.txt"),
)
def show(
    memory_id: Annotated[str, typer.Argument(metavar="ID", help="The memory.")],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    history: Annotated[bool, typer.Option("--history", help="All versions, oldest first.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The text alone, byte for byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a memory: its text, what is known of it, and what it costs."""
    with opened(store, codec, read_only=True) as memory:
        place = memory.scope(scope)
        found = place.history(memory_id) if history else [place.get(memory_id)]
        for item in found:
            if raw:
                sys.stdout.buffer.write(item.text.encode())
                continue
            record = item.record
            more = {
                "fidelity": item.fidelity,
                "latents": item.n_latents,
                "chunks": record.n_chunks,
                "version": record.version,
                "valid_from": record.valid_from,
                "valid_to": record.valid_to,
                "written_by": record.written_by,
                "derived_from": record.derived_from,
                "supersedes": record.supersedes,
            }
            if as_json:
                print_json(memory_fields(item) | more)
                continue
            typer.echo(memory_lines(item))
            from nextmem_agents.recall.rendering import escape

            for name, value in (memory_fields(item, text=False) | more).items():
                if value not in (None, {}, "") and name not in ("id", "metadata"):
                    typer.echo(f"  {name + ':':<14}{escape(str(value))}")
            for name, scalar in item.metadata.items():
                typer.echo(f"  {escape(name)} = {escape(str(scalar))}")
