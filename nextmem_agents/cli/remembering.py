"""Commands that write memories and take them away: remember, forget, erase."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from nextmem_agents.cli.exits import NoScope
from nextmem_agents.cli.opening import location, opened
from nextmem_agents.cli.options import (
    JsonOption,
    ScopeOption,
    StoreCodecOption,
    StoreOption,
    WhereOption,
    YesOption,
    duration,
    examples,
    pairs,
    texts_of,
    time_of,
)
from nextmem_agents.cli.output import confirm, print_json, progress, waiting
from nextmem_agents.errors import InvalidArgument

remembering = typer.Typer()
PANEL = "Memories"
_BATCH = 64  # texts remembered together, between two steps of the progress bar


@remembering.command(
    rich_help_panel=PANEL,
    epilog=examples(
        'remember "She moved to Lisbon in May." --role user --session s1',
        "remember - --scope alice < note.txt",
        'remember "Ferry at 9" --id ferry --ttl 7d --metadata year=2026 --json',
    ),
)
def remember(
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="What to remember; - reads standard input.")
    ],
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    memory_id: Annotated[
        str | None,
        typer.Option("--id", help="Your own id of one text; the same id again replaces, with history."),
    ] = None,
    session: Annotated[str | None, typer.Option(help="The conversation it belongs to.")] = None,
    agent: Annotated[str | None, typer.Option(help="Who remembers.")] = None,
    role: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    occurred_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it happened (ISO 8601).")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Fields of your own, for --where. Repeatable."),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long it lives: 90s, 15m, 12h, 7d.")
    ] = None,
    importance: Annotated[float | None, typer.Option(min=0, max=1, help="For ranking.")] = None,
    dedupe: Annotated[bool, typer.Option(help="Skip what the session already holds, word for word.")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of standard input is a memory.")] = False,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Encrypt the scope under a key of its own.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remember one text or several; print their ids.

    The store and the scope are made if they are not there.
    """
    found = texts_of(texts, lines)
    if memory_id is not None and len(found) != 1:
        raise InvalidArgument(f"--id is for one text, and {len(found)} were given")
    known: dict[str, Any] = {
        "session": session,
        "agent": agent,
        "role": role,
        "occurred_at": time_of("--occurred-at", occurred_at),
        "metadata": pairs("--metadata", metadata),
        "ttl": duration("--ttl", ttl),
        "importance": importance,
        "dedupe": dedupe,
    }
    from nextmem_agents.items import as_items
    from nextmem_agents.recall.rendering import escape

    # All of them, before the first is written and a store is made.
    given = {name: known[name] for name in ("session", "agent", "role", "occurred_at", "metadata")}
    as_items(found, ids=None if memory_id is None else [memory_id], **given)
    ids: list[str] = []
    with opened(store, codec) as memory, progress("Remembering", "texts") as advance:
        target = memory.scope(scope, encrypted=encrypted)
        for start in range(0, len(found), _BATCH):
            batch = found[start : start + _BATCH]
            ids += target.remember(batch, id=None if memory_id is None else [memory_id], **known)
            advance(len(ids), len(found))
    for id_ in ids:
        if as_json:
            print_json({"id": id_, "scope": scope})
        else:
            typer.echo(escape(id_))


@remembering.command(
    rich_help_panel=PANEL,
    epilog=examples("forget 6f1c… --scope alice", "forget --where session=s1 --scope alice --yes"),
)
def forget(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="The memories.")] = None,
    store: StoreOption = None,
    scope: ScopeOption = "default",
    codec: StoreCodecOption = None,
    where: WhereOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget memories with all their versions, by ids or by a filter.

    They leave every read at once. `erase` is what also removes a scope's bytes from the disk.
    """
    filters = pairs("--where", where)
    if bool(ids) == bool(filters):
        raise InvalidArgument("give ids, or --where; `nextmem erase` forgets a whole scope")
    what = f"{len(ids)} memories" if ids else f"all memories where {' and '.join(where or [])}"
    confirm(f"Forget {what} in scope {scope!r}?", yes)
    with opened(store, codec, must_exist=True) as memory:
        n = memory.scope(scope).forget(ids or None, where=filters or None)
    if as_json:
        print_json({"forgotten": n, "scope": scope})
    else:
        typer.echo(f"{n} memories forgotten")


@remembering.command(
    rich_help_panel=PANEL, epilog=examples("erase --scope alice", "erase --scope alice --yes --json")
)
def erase(
    scope: Annotated[
        str, typer.Option("--scope", "-s", metavar="NAME", help="The scope to erase; it has to be named.")
    ],
    store: StoreOption = None,
    codec: StoreCodecOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget a whole scope and remove its bytes from the disk; print the receipt.

    Every file of a folder is read to its end to prove that nothing is left. What that cannot prove is said, too.
    """
    confirm(f"Erase the scope {scope!r} with all its memories, for good?", yes)
    with opened(store, codec, must_exist=True) as memory, waiting("Erasing"):
        receipt = memory.scope(scope).erase()
    if not receipt.versions and not receipt.key_erased:
        raise NoScope(
            f"there is no scope {scope!r} in {location(store)}: it holds no memory and has no key; "
            "`nextmem list --scopes` shows what is there"
        )
    if as_json:
        print_json(dataclasses.asdict(receipt))
        return
    typer.echo(f"{receipt.memories} memories of scope {scope!r} erased ({receipt.versions} versions)")
    if receipt.proven:
        typer.echo(
            f"proven: none of their bytes is left in {receipt.files} files ({receipt.bytes_read:,} bytes read)"
        )
    if receipt.key_erased:
        typer.echo("the scope's key was deleted")
    for what in receipt.not_proven:
        typer.echo(f"not proven: {what}")
