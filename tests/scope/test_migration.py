"""Moving between memories: what is encrypted stays so, what is damaged is told, and an interruption loses nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import InvalidArgument, LatentCodec, NextMem
from nextmem_agents.errors import PayloadError
from nextmem_agents.store.server_rows import chunk_id

Open = Callable[..., NextMem]
LONG = "The harbour of Lisbon lies on the north bank of the river Tagus. " * 16


def test_an_encrypted_scope_is_encrypted_in_the_target(open_fake: Open, tmp_path: Path) -> None:
    source = open_fake(tmp_path / "a", encryption_key="pw")
    source.scope("e", encrypted=True).remember("secret", id="x", session="s")
    source.scope("p").remember("plain")
    target = open_fake(tmp_path / "b", encryption_key="other")
    assert source.migrate_to(target, dry_run=True).migrated == 2
    assert not target.scope("e").encrypted
    assert source.migrate_to(target).migrated == 2
    scope = target.scope("e")
    assert (scope.encrypted, target.scope("p").encrypted) == (True, False)
    assert scope.get("x").text == "secret"
    assert scope.remember("secret", session="s", dedupe=True) == "x"
    target.close()
    assert b"secret" not in b"".join(file.read_bytes() for file in (tmp_path / "b").glob("records*"))


def test_nothing_is_migrated_if_a_scope_cannot_be_encrypted_there(open_fake: Open) -> None:
    source = open_fake()
    source.scope("a").remember("plain")
    source.scope("e", encrypted=True).remember("secret")
    keyless = open_fake()
    keyless._keys = None  # as a server's is that was opened without keys=
    with pytest.raises(InvalidArgument, match="keys="):
        source.migrate_to(keyless)
    plain = open_fake()
    plain.scope("e").remember("plain")
    with pytest.raises(InvalidArgument, match="not encrypted"):
        source.migrate_to(plain)
    assert (keyless.scopes(), plain.scopes()) == ([], ["e"])


def test_words_find_what_was_kept_without_them(open_fake: Open) -> None:
    """As an import from an encrypted scope left it once."""
    source, target = open_fake(), open_fake()
    source.scope("s").remember("Lisbon", id="x", role="Ann")
    [record] = source._store.dump("s")
    source._store.put("s", [replace(record, terms={}, digest=None)])
    assert not source.scope("s").recall("Ann", ranking="lexical")
    source.migrate_to(target)
    assert [hit.id for hit in target.scope("s").recall("Ann", ranking="lexical")] == ["x"]


@pytest.mark.parametrize("lost", [[1], [0, 1, 2]])
@pytest.mark.parametrize("payload", ["sqlite", "chroma"])
def test_a_memory_that_lost_chunks_is_reported_and_not_exported(
    codec: LatentCodec, tmp_path: Path, payload: Any, lost: list[int]
) -> None:
    folder = tmp_path / "m"
    with NextMem.open(folder, codec=codec, payload=payload) as memory:
        scope = memory.scope("a")
        scope.remember(["Short.", LONG], id=["short", "long"])
        version = scope.get("long").record.version
        assert scope.get("long").record.n_chunks == 3
        if payload == "chroma":
            memory._store._shared.collection("a").delete([chunk_id(version, n) for n in lost if n])  # type: ignore[attr-defined]
    if payload == "sqlite":
        with closing(sqlite3.connect(folder / "records.sqlite3")) as database, database:
            for n in lost:
                database.execute("DELETE FROM payloads WHERE version = ? AND chunk = ?", (version, n))
    with (
        NextMem.open(folder, codec=codec, payload=payload) as memory,
        NextMem.open(":memory:", codec=codec) as target,
    ):
        done = memory.migrate_to(target)
        assert [(d.scope, d.id) for d in done.damaged] == [("a", "long")]
        assert [m.text for m in target.scope("a").list()] == ["Short."]
        assert memory.migrate_to(target).damaged == done.damaged
        with pytest.raises(PayloadError, match="'long'"):
            memory.scope("a").export(tmp_path / "a.jsonl")
        assert [*tmp_path.glob("a.jsonl*")] == []


def test_a_damaged_version_does_not_stand_for_another_of_its_call(fake: NextMem, open_fake: Open) -> None:
    target = open_fake()
    fake.scope("s").remember(["lost", "kept"], id=["k", "k"])
    lost, kept = fake._store.dump("s")
    fake.scope("s").clear()
    fake._store.put("s", [replace(lost, payloads=[b""]), kept])
    for migrated, before in ((1, 0), (0, 1)):
        done = fake.migrate_to(target)
        assert (done.migrated, done.there_before, len(done.damaged)) == (migrated, before, 1)
    assert [m.text for m in target.scope("s").history("k")] == ["kept"]


@pytest.mark.parametrize("stop", [64, 65])
def test_versions_of_one_call_survive_an_interruption(open_fake: Open, stop: int) -> None:
    source, target = open_fake(), open_fake()
    scope = source.scope("s")
    scope.remember([f"text {n}" for n in range(63)] + ["old", "new"], id=[*map(str, range(63)), "k", "k"])

    def interrupt(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source.migrate_to(target, progress=interrupt)
    assert source.migrate_to(target).migrated == 65 - stop
    assert source.migrate_to(target).there_before == 65
    assert [m.text for m in target.scope("s").history("k")] == ["old", "new"]


def test_a_target_that_is_no_memory_is_refused(fake: NextMem) -> None:
    with pytest.raises(InvalidArgument, match="NextMem"):
        fake.migrate_to("x")  # type: ignore[arg-type]
