"""Commands over a whole store: stats, verify, rebuild, export, import, migrate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from nextmem_agents.cli import exits
from nextmem_agents.cli.opening import is_store, location, opened
from nextmem_agents.cli.options import JsonOption, ScopeOption, StoreCodecOption, StoreOption, examples
from nextmem_agents.cli.output import bytes_text, print_json, progress, waiting
from nextmem_agents.errors import DataError, InvalidArgument

stores = typer.Typer()
PANEL = "The store"


@stores.command(rich_help_panel=PANEL, epilog=examples("stats", "stats --store ./agent-memory --json"))
def stats(store: StoreOption = None, codec: StoreCodecOption = None, as_json: JsonOption = False) -> None:
    """Count what a store holds: memories by scope, bytes by part."""
    with opened(store, codec, read_only=True) as memory:
        counts = {name: memory.scope(name).count() for name in memory.scopes()}
        sizes = memory.sizes()
        name, fingerprint = memory.codec.config.name, memory.codec.fingerprint
    total = sum(counts.values())
    if as_json:
        print_json(
            {
                "store": str(location(store)),
                "codec": name,
                "fingerprint": fingerprint,
                "memories": total,
                "scopes": counts,
                "bytes": sizes,
            }
        )
        return
    typer.echo(
        f"{location(store)}\n{total:,} memories in {len(counts)} scopes; codec {name} ({fingerprint[:12]})"
    )
    from nextmem_agents.recall.rendering import escape

    for scope, n in counts.items():
        typer.echo(f"{n:>10,}  {escape(scope)}")
    for part, size in sizes.items():
        each = f"{size / total:,.0f} bytes a memory" if total else ""
        typer.echo(f"{bytes_text(size):>10}  {part:<10}{each}")


@stores.command(
    rich_help_panel=PANEL, epilog=examples("verify", "verify --texts --store ./agent-memory --json")
)
def verify(
    store: StoreOption = None,
    codec: StoreCodecOption = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Decode every text, too, and check it against its checksum.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at every memory; mend the index, and say what is damaged (exit code 4)."""
    with opened(store, codec, must_exist=True) as memory, progress("Verifying", "versions") as advance:
        report = memory.verify(texts=texts, progress=advance)
    if as_json:
        print_json({**dataclasses.asdict(report), "sound": report.sound})
    else:
        typer.echo(
            f"{report.n_memories:,} memories, {report.n_versions:,} versions, {report.n_chunks:,} chunks"
        )
        typer.echo(
            f"index: {report.index_missing} missing, {report.index_extra} extra, {report.index_wrong} wrong; "
            + ("mended" if report.repaired else "NOT mended; run `nextmem rebuild`")
        )
        for damage in report.damaged:
            typer.echo(
                f"damaged: {damage.id!r} in scope {damage.scope!r}, version {damage.version}: {damage.reason}"
            )
        if report.damaged:
            typer.echo(
                "restore the folder from a copy, or give these up with `nextmem forget`; all others are sound"
            )
    if not report.sound:
        raise typer.Exit(exits.DAMAGED)


@stores.command(rich_help_panel=PANEL, epilog=examples("rebuild", "rebuild --store ./agent-memory --json"))
def rebuild(store: StoreOption = None, codec: StoreCodecOption = None, as_json: JsonOption = False) -> None:
    """Make a store's vector index anew from its records."""
    with opened(store, codec, must_exist=True) as memory, progress("Indexing", "vectors") as advance:
        n = memory.rebuild(advance)
    if as_json:
        print_json({"vectors": n})
    else:
        typer.echo(f"{n} vectors indexed")


@stores.command(rich_help_panel=PANEL, epilog=examples("export alice.jsonl --scope alice"))
def export(
    file: Annotated[
        Path, typer.Argument(help="The file to write: JSON lines, checksummed, with the history.")
    ],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a scope with its history to a file that `import` reads, here or elsewhere.

    Whoever has the file can read it, an encrypted scope's too.
    """
    if file.is_dir():
        raise InvalidArgument(f"{file} is a folder; name a file in it, such as {file / 'scope.jsonl'}")
    if isinstance(place := location(store), Path) and place.resolve() in file.resolve().parents:
        raise InvalidArgument(f"{file} lies in the folder of the store; choose a file elsewhere")
    if file.is_file() and not force:
        raise InvalidArgument(f"{file} is there already; choose another file, or replace it with --force")
    with opened(store, codec, read_only=True) as memory, waiting("Exporting"):
        if scope not in memory.scopes():
            raise exits.NoScope(
                f"scope {scope!r} of {place} holds no memory, and no file was written; `nextmem list --scopes` shows "
                "what is there"
            )
        n = memory.scope(scope).export(file)
    if as_json:
        print_json({"versions": n, "file": str(file), "scope": scope})
    else:
        typer.echo(f"{n} versions written to {file}")


@stores.command(
    "import", rich_help_panel=PANEL, epilog=examples("import alice.jsonl --scope alice --skip-existing")
)
def import_(
    file: Annotated[Path, typer.Argument(help="What `export` or `encode --output` wrote.")],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave memories there as they are.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add an exported file to a scope, all or nothing."""
    if not file.exists() or file.is_dir():
        raise DataError(f"{file} is no file; nothing was imported")
    from nextmem_agents.scope.transfer import check_export

    check_export(file)  # before a store is made for it
    with opened(store, codec) as memory, waiting("Importing"):
        n = memory.scope(scope).import_(file, skip_existing=skip_existing)
    if as_json:
        print_json({"memories": n, "file": str(file), "scope": scope})
    else:
        typer.echo(f"{n} memories imported into scope {scope!r}")


@stores.command(
    rich_help_panel=PANEL,
    epilog=examples(
        "migrate ./new --to-codec mini-dense --dry-run",
        "migrate ./new --to-codec ./my-codec --store ./agent-memory",
    ),
)
def migrate(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The new store: a folder or a server's address.")
    ],
    to_codec: Annotated[str, typer.Option(metavar="NAME_OR_FOLDER", help="The codec of the new store.")],
    store: StoreOption = None,
    codec: StoreCodecOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Decode and check everything, write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write every memory with its history into a store of another codec; the old one stays as it is.

    Run again after an interruption, it goes on where it was. What does not come back exactly is not migrated but
    listed (exit code 4).
    """
    place, new_place = (
        where.resolve() if isinstance(where, Path) else where for where in (location(store), location(target))
    )
    if place == new_place:
        raise InvalidArgument("a memory cannot be migrated into itself; name another folder")
    fresh = dry_run and isinstance(new_place, Path) and not is_store(new_place)
    with (
        opened(store, codec, read_only=True) as source,
        opened(":memory:" if fresh else target, to_codec) as new,
        progress("Migrating", "versions") as advance,
    ):
        done = source.migrate_to(new, dry_run=dry_run, progress=advance)
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        verb = "would be migrated" if done.dry_run else "migrated"
        typer.echo(f"{done.migrated} versions {verb}, {done.there_before} were there before")
        for damage in done.damaged:
            typer.echo(f"not migrated: {damage.id!r} in scope {damage.scope!r}: {damage.reason}")
    if done.damaged:
        raise typer.Exit(exits.DAMAGED)
