"""An encrypted scope's key: when it is made, when it goes, and that no memory is sealed under a dead one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import InvalidArgument, MemoryNotFound, NextMem
from nextmem_agents.corpus.destinations import StoreDestination
from nextmem_agents.errors import KeyMissing, ReadOnlyStore, StoreError
from nextmem_agents.scope import writing
from nextmem_agents.store.folder import Folder
from nextmem_agents.store.keys import KeyRing

Open = Callable[..., NextMem]
LAYOUTS = pytest.mark.parametrize("payload", ["sqlite", "chroma"])


@LAYOUTS
def test_a_scope_that_holds_plain_memories_is_not_encrypted_by_an_older_handle(
    open_fake: Open, payload: str
) -> None:
    memory = open_fake(payload=payload)
    plain, encrypted = memory.scope("a"), memory.scope("a", encrypted=True)
    note = plain.remember("plain")
    with pytest.raises(InvalidArgument, match="not encrypted"):
        encrypted.remember("secret")
    assert not memory.scope("a").encrypted
    assert plain.get(note).text == "plain"


def test_what_has_ended_counts_as_a_plain_memory(fake: NextMem) -> None:
    fake.scope("a").remember("plain", id="x", valid_to=datetime(2020, 1, 1))
    assert fake.scope("a").count() == 0
    with pytest.raises(InvalidArgument, match="not encrypted"):
        fake.scope("a", encrypted=True)


def test_a_first_write_that_fails_makes_no_key(fake: NextMem) -> None:
    scope = fake.scope("a", encrypted=True)
    with pytest.raises(InvalidArgument, match="metadata"):
        scope.remember("secret", metadata={"a": None})  # type: ignore[dict-item]
    with pytest.raises(MemoryNotFound):
        scope.remember("secret", supersedes="nothing")
    assert not fake.scope("a").encrypted
    scope.remember("secret")
    with pytest.raises(InvalidArgument, match="metadata"):
        scope.remember("secret", metadata={"a": None})  # type: ignore[dict-item]
    assert [m.text for m in fake.scope("a").list()] == ["secret"]


def test_a_read_only_store_gets_no_keys(open_fake: Open, tmp_path: Path) -> None:
    note = open_fake(tmp_path).scope("a").remember("plain")
    reader = open_fake(tmp_path, read_only=True)
    with pytest.raises(ReadOnlyStore):
        reader.scope("b", encrypted=True).remember("secret")
    assert not (tmp_path / "keys.json").exists()
    assert reader.scope("a").get(note).text == "plain"


@LAYOUTS
def test_a_scope_whose_key_is_lost_takes_nothing_that_is_not_encrypted(
    open_fake: Open, tmp_path: Path, payload: str
) -> None:
    with open_fake(tmp_path, payload=payload) as memory:
        memory.scope("a", encrypted=True).remember("before")
        memory.scope("plain").remember("not secret")
    (tmp_path / "keys.json").rename(tmp_path / "elsewhere")
    with open_fake(tmp_path, payload=payload) as memory:
        with pytest.raises(KeyMissing, match="nothing was written"):
            memory.scope("a").remember("after")
        with pytest.raises(KeyMissing, match="nothing was written"):
            memory.scope("a", encrypted=True)
        memory.scope("plain").remember("not secret either")
        assert memory.scope("plain").count() == 2
    (tmp_path / "elsewhere").rename(tmp_path / "keys.json")
    with open_fake(tmp_path, payload=payload) as memory:
        assert [each.text for each in memory.scope("a").list()] == ["before"]


@LAYOUTS
def test_a_scope_that_another_handle_erases_during_the_encoding_keeps_what_is_remembered(
    open_fake: Open, tmp_path: Path, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, other = (open_fake(tmp_path, payload=payload) for _ in range(2))
    scope = memory.scope("a", encrypted=True)
    scope.remember("before")
    compress = writing.compress

    def erasing(*arguments: Any) -> Any:
        other.scope("a").erase()
        return compress(*arguments)

    monkeypatch.setattr(writing, "compress", erasing)
    note = scope.remember("secret")
    monkeypatch.setattr(writing, "compress", compress)
    assert [(m.id, m.text) for m in scope.list()] == [(note, "secret")]
    assert scope.encrypted
    assert scope.remember("secret", dedupe=True) == note


def test_an_erasure_waits_for_what_is_being_written(
    open_fake: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, other = (open_fake(tmp_path) for _ in range(2))
    scope = memory.scope("a", encrypted=True)
    scope.remember("before")
    put = memory._store.put
    erasing = threading.Thread(target=other.scope("a").erase)

    def slow(*arguments: Any) -> list[str]:
        erasing.start()
        erasing.join(0.2)
        assert memory.scope("a").encrypted
        return put(*arguments)

    monkeypatch.setattr(memory._store, "put", slow)
    scope.remember("secret")
    erasing.join(30)
    assert [*memory.scope("a").list()] == []
    assert not memory.scope("a").encrypted


def test_a_corpus_sealed_with_another_key_is_not_written(fake: NextMem) -> None:
    scope = fake.scope("a", encrypted=True)
    destination = StoreDestination(scope)
    scope.remember("before")
    scope.erase()
    with pytest.raises(StoreError, match="run it again"):
        destination.write([])
    assert not fake.scope("a").encrypted


def test_the_key_of_an_erased_scope_goes_even_if_the_erasure_is_finished_later(
    open_fake: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_fake(tmp_path)
    memory.scope("a", encrypted=True).remember("secret")

    def failing(folder: Folder) -> None:
        raise StoreError("another process reads")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "remove_bytes", failing)
        with pytest.raises(StoreError, match="another process reads"):
            memory.scope("a").erase()
    assert not memory.scope("a").encrypted
    memory.close()
    memory = open_fake(tmp_path)
    assert (memory.scopes(), memory.scope("a").encrypted) == ([], False)


@LAYOUTS
@pytest.mark.parametrize("finished", [True, False], ids=["memories gone", "nothing done"])
def test_an_erasure_that_is_cut_off_leaves_no_key_without_memories_and_no_memories_without_key(
    open_fake: Open, tmp_path: Path, payload: str, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = open_fake(tmp_path, payload=payload)
    memory.scope("a", encrypted=True).remember("secret")
    memory.scope("b", encrypted=True).remember("other")

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*(KeyRing, "erase") if finished else (type(memory._store), "erase"), cut_off)
        with pytest.raises(KeyboardInterrupt):
            memory.scope("a").erase()
    memory.close()
    reader = open_fake(tmp_path, read_only=True)
    assert reader.scope("a").encrypted  # it writes nothing
    reader.close()
    memory = open_fake(tmp_path)
    assert memory.scope("a").encrypted is not finished
    assert [m.text for m in memory.scope("a").list()] == ([] if finished else ["secret"])
    assert [m.text for m in memory.scope("b").list()] == ["other"]
    assert json.loads((tmp_path / "keys.json").read_text())["erasing"] == []


def test_a_passphrase_that_is_no_text_is_refused(open_fake: Open) -> None:
    with pytest.raises(InvalidArgument, match="surrogate"):
        open_fake(encryption_key="\ud800")
