"""Commands that serve until they are stopped: inspect, mcp."""

from __future__ import annotations

import shutil
import sys
import threading
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.cli.opening import location, opened
from nextmem_agents.cli.options import ScopeOption, StoreCodecOption, StoreOption, examples
from nextmem_agents.cli.output import print_json
from nextmem_agents.errors import InvalidArgument, MissingExtra

serving = typer.Typer()
PANEL = "Serving"


class Transport(str, Enum):
    """How MCP clients reach the server."""

    stdio = "stdio"
    http = "http"


@serving.command(
    rich_help_panel=PANEL, epilog=examples("inspect", "inspect --store ./agent-memory --no-browser")
)
def inspect(
    store: StoreOption = None,
    codec: StoreCodecOption = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Look beside a process that writes; nothing can be forgotten.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address as JSON, open nothing, and serve.")
    ] = False,
) -> None:
    """Serve a page on 127.0.0.1 to browse and search memories, and to see what their latents hold.

    The address has a token in it; whoever has not is refused. Ends with Ctrl-C.
    """
    from nextmem_agents.inspector import running, serve

    with opened(store, codec, read_only=read_only, must_exist=True) as memory:
        if not as_json:
            serve(memory, port=port, open_browser=browser)
            return
        with running(memory, port=port) as url, suppress(KeyboardInterrupt):
            print_json({"url": url})
            threading.Event().wait()


@serving.command(
    rich_help_panel=PANEL,
    epilog=examples(
        "mcp --scope alice", "mcp --scope alice --transport http --port 8765", "mcp --scope alice --json"
    ),
)
def mcp(
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    transport: Annotated[
        Transport, typer.Option(help="stdio: the client starts it; http: on loopback only.")
    ] = (Transport.stdio),
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The port for http; 0 takes a free one.")
    ] = 8765,
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Offer recall and list alone; works beside a process that writes."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the entry for an MCP client's configuration, and exit.")
    ] = False,
) -> None:
    r"""Serve one scope to agents over the Model Context Protocol: remember, recall, list, forget.

    The scope is the one given here; no model can choose another. Needs `pip install "nextmem-agents\[mcp]"`.
    """
    if as_json:
        print_json({"mcpServers": {"nextmem": _entry(store, scope, codec, transport, port, read_only)}})
        return
    try:
        from nextmem_agents.mcp_server import serve_http, serve_stdio
    except ImportError as error:
        raise MissingExtra('nextmem mcp needs the MCP SDK: pip install "nextmem-agents[mcp]"') from error
    with opened(store, codec, read_only=read_only) as memory:
        target = memory.scope(scope)
        if transport is Transport.stdio:
            serve_stdio(target, read_only=read_only)
        else:
            serve_http(target, port, read_only=read_only, announce=lambda url: typer.echo(url, err=True))


def _entry(
    store: str | None, scope: str, codec: str | None, transport: Transport, port: int, read_only: bool
) -> dict[str, object]:
    if transport is Transport.http:
        if not port:
            raise InvalidArgument("a free port is known only once it is taken; name one with --port")
        return {"type": "http", "url": f"http://127.0.0.1:{port}/mcp"}
    command = shutil.which("nextmem")
    words = ["mcp"] if command else ["-m", "nextmem_agents.cli", "mcp"]
    place = location(store)
    if isinstance(place, Path):
        place = place.absolute()  # the client starts it in a folder of its own
    words += ["--store", str(place), "--scope", scope, *(["--codec", codec] if codec else [])]
    return {"command": command or sys.executable, "args": [*words, *(["--read-only"] if read_only else [])]}
