"""The application: every family of commands, mounted under one name."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from nextmem_agents.cli import exits
from nextmem_agents.cli.codecs import codecs
from nextmem_agents.cli.corpora import corpora
from nextmem_agents.cli.evaluations import evaluate
from nextmem_agents.cli.first_steps import first_steps
from nextmem_agents.cli.opening import VARIABLES
from nextmem_agents.cli.recalling import recalling
from nextmem_agents.cli.remembering import remembering
from nextmem_agents.cli.serving import serving
from nextmem_agents.cli.stores import stores
from nextmem_agents.cli.upkeep import upkeep
from nextmem_agents.training.commands import train


def _epilog() -> str:
    codes = "\n\n".join(f"{code}: {meaning}" for code, meaning in exits.DOCUMENTED)
    variables = "\n\n".join(f"{name}: {meaning}" for name, meaning in VARIABLES)
    return f"Exit codes:\n\n{codes}\n\nEnvironment:\n\n{variables}"


app = typer.Typer(
    name="nextmem",
    help="Latent factual memory for agents: text becomes a few 4-bit latents and comes back exactly.",
    epilog=_epilog(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from nextmem_agents import __version__

        typer.echo(f"nextmem-agents {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[  # read from the command line itself, since it may stand anywhere: see `exits.run`
        bool,
        typer.Option("--debug", help="Show tracebacks and all log events; may stand after the command, too."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Latent factual memory for agents: text becomes a few 4-bit latents and comes back exactly."""


for family in (first_steps, remembering, recalling, stores, corpora, codecs, upkeep, serving):
    app.registered_commands.extend(family.registered_commands)
app.add_typer(train, name="train", rich_help_panel="Codecs")
app.add_typer(evaluate, name="evaluate", rich_help_panel="Codecs")


def main() -> None:
    """Run the command line and exit: an error is one line on standard error, a code says of what kind."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    # `--debug` may stand anywhere before a `--`; typer knows it before the command only.
    debug = "--debug" in words[:end]
    rest = [word for word in words[:end] if word != "--debug"] + words[end:]
    sys.argv[1:] = ["--debug", *rest] if debug and rest else words
    sys.exit(exits.run(partial(app, standalone_mode=False), sys.argv[1:]))
