"""``nextmem demo``: an agent with a memory, on this machine, in a minute."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.cli.options import CodecOption, JsonOption, examples
from nextmem_agents.cli.output import print_json
from nextmem_agents.codec import DEFAULT_CODEC

first_steps = typer.Typer()


@first_steps.command(
    rich_help_panel="First steps", epilog=examples("demo", "demo --conversation locomo10.json --k 10 --json")
)
def demo(
    conversation: Annotated[
        Path | None,
        typer.Option(help="A LoCoMo file (.json, .json.xz); by default the packaged conversation."),
    ] = None,
    codec: CodecOption = DEFAULT_CODEC,
    store: Annotated[
        Path | None, typer.Option(help="Keep the store here; by default it ends with the demo.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Memories recalled for a question.")] = 5,
    details: Annotated[
        bool | None, typer.Option("--details/--no-details", help="Print every question (default: up to 50).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a LangChain agent read a conversation into memory and answer questions about it, offline."""
    from rich.console import Console

    from nextmem_agents.demo import run
    from nextmem_agents.evaluation.locomo import default_conversation, load_locomo

    conversations = load_locomo(conversation or default_conversation())
    few = sum(len(c.questions) for c in conversations) <= 50
    console = Console(highlight=False, quiet=as_json)
    details = few if details is None else details
    totals = run(conversations, console, codec=codec, store=store, k=k, details=details)
    if as_json:
        print_json(dataclasses.asdict(totals))
