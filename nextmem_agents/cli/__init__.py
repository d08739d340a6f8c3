"""The command line ``nextmem``: a thin layer of arguments over the package, one module per family of commands."""

from nextmem_agents.cli.app import app, main

__all__ = ["app", "main"]
