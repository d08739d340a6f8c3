"""Every public method that reads gives nothing of another scope; a new one without a call here fails the first test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import InvalidArgument, MemoryNotFound, NextMem, Scope
from nextmem_agents.scope import Decay

TREASURE = "The heirloom lies under the quince tree."
QUESTION = "Where does the heirloom lie?"
FUTURE = datetime.now(timezone.utc) + timedelta(days=1)

# Each tries its best to see the memory ``id`` with the metadata {"of": "alice"}; what comes back is turned to text.
READS: dict[str, Callable[[Scope, str, Path], Any]] = {
    "get": lambda scope, id_, _: scope.get(id_).text,
    "history": lambda scope, id_, _: [m.text for m in scope.history(id_)],
    "update": lambda scope, id_, _: scope.update(id_, metadata={"n": 1}).text,
    "list": lambda scope, *_: [m.text for how in ({}, {"as_of": FUTURE}) for m in scope.list(**how)],
    "sample": lambda scope, *_: [memory.text for memory in scope.sample(50)],
    "count": lambda scope, *_: "" if scope.count() == 1 else TREASURE,
    "recall": lambda scope, *_: [
        hit.text
        for ranking in ("hybrid", "latent", "lexical")
        for how in ({}, {"as_of": FUTURE}, {"decay": Decay()}, {"where": {"of": "alice"}})
        for hit in scope.recall(QUESTION, k=50, ranking=ranking, **how)  # type: ignore[arg-type]
    ],
    "answer": lambda scope, *_: [
        str(scope.answer(QUESTION)),
        scope.answer(QUESTION, model=lambda prompt: prompt).text,
    ],
    "export": lambda scope, _, path: (
        scope.export(path),
        path.read_text(),
        scope.import_(path, skip_existing=True),
    )[1],
}
OTHERS = {"remember", "expire", "forget", "clear", "erase", "import_", "token_counter"}


def test_every_public_method_is_tried_or_named() -> None:
    methods = {
        name
        for name, _ in inspect.getmembers(Scope, inspect.isfunction)
        if not name.startswith("_") and not (name.startswith("a") and hasattr(Scope, name[1:]))
    }
    assert methods == READS.keys() | OTHERS


@pytest.mark.parametrize("name", sorted(READS))
def test_nothing_of_another_scope_comes_back_and_the_scope_itself_sees_it(
    memory: NextMem, tmp_path: Path, name: str
) -> None:
    alice, mallory = memory.scope("alice"), memory.scope("mallory")
    note = alice.remember(TREASURE, session="s", metadata={"of": "alice"})
    mallory.remember("A pot of tea stands on the table.", session="s")
    read = READS[name]
    try:
        seen = str(read(mallory, note, tmp_path / "mallory"))
    except MemoryNotFound:
        seen = ""
    assert "heirloom lies" not in seen
    assert "quince" not in seen
    if name not in {"count", "export"}:
        assert "quince" in str(read(alice, note, tmp_path / "alice"))
    if name == "export":
        assert note in read(alice, note, tmp_path / "alice")
        assert note not in seen


def test_what_is_written_and_deleted_elsewhere_touches_nothing_here(memory: NextMem, tmp_path: Path) -> None:
    alice, mallory = memory.scope("alice"), memory.scope("mallory")
    note = alice.remember(TREASURE)
    mallory.remember("mine", id=note)
    alice.export(tmp_path / "alice")
    with pytest.raises(InvalidArgument):
        mallory.import_(tmp_path / "alice")
    mallory.update(note, "mine still")
    assert mallory.forget([note]) == 1
    mallory.clear()
    mallory.erase()
    with pytest.raises(MemoryNotFound):
        mallory.remember("x", supersedes=note)
    assert alice.get(note).text == TREASURE
    assert len(alice.history(note)) == 1


@pytest.mark.parametrize(
    "name", [{"$ne": ""}, ["alice"], "", None, 0, b"alice", "alice ", "a\u0000b", "e\u0301ve"]
)
def test_what_is_no_scope_id_is_refused(memory: NextMem, name: Any) -> None:
    memory.scope("alice").remember(TREASURE)
    with pytest.raises(InvalidArgument, match="scope"):
        memory.scope(name)


@pytest.mark.parametrize(
    "name", ["аlice", "ALICE", "alicе", "al\u200bice", "ａlice", "alice%", "a*", "alıce"]
)
def test_a_look_alike_is_another_scope(memory: NextMem, name: str) -> None:
    memory.scope("alice").remember(TREASURE)
    other = memory.scope(name)
    assert other.count() == 0
    assert len(other.recall(QUESTION)) == 0
    assert list(other.list()) == []
