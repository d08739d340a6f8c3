"""Export and import: nothing that ended comes back, words and repeats are known whatever is encrypted."""

from __future__ import annotations

import json
import os
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import DataError, InvalidArgument, NextMem


@pytest.mark.parametrize("payload", ["sqlite", "chroma"])
def test_what_has_ended_before_it_began_stays_ended(open_fake: Any, tmp_path: Path, payload: str) -> None:
    memory, other = open_fake(), open_fake(payload=payload)
    scope = memory.scope("a")
    scope.remember("Ann works for A", id="A")
    scope.remember("Ann works for B", id="B", supersedes="A", valid_from=datetime(2024, 6, 1))
    scope.forget(["B"])
    scope.export(tmp_path / "a.jsonl")
    other.scope("b").import_(tmp_path / "a.jsonl")
    memory.migrate_to(other)
    for name in ("a", "b"):
        copy = other.scope(name)
        assert [*copy.list()] == []
        assert copy.get("A").record.valid_to == scope.get("A").record.valid_to
    with pytest.raises(InvalidArgument, match="valid_to"):
        scope.remember("x", valid_from=datetime(2024, 6, 1), valid_to=datetime(2024, 5, 1))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_words_and_repeats_are_known_whatever_is_encrypted(
    open_fake: Any, tmp_path: Path, before: bool, after: bool
) -> None:
    memory, other = open_fake(), open_fake()
    memory.scope("a", encrypted=before).remember("Lisbon", id="x", role="Ann", session="s")
    memory.scope("a").export(tmp_path / "a.jsonl")
    scope = other.scope("b", encrypted=after)
    assert scope.import_(tmp_path / "a.jsonl") == 1
    assert scope.encrypted == after
    assert scope.remember("Lisbon", role="Ann", session="s", dedupe=True) == "x"
    if not after:
        assert [hit.id for hit in scope.recall("Ann", ranking="lexical")] == ["x"]
    assert [bool(record.terms) for record in other._store.dump("b")] == [not after]


def test_an_export_leaves_other_files_alone(fake: NextMem, tmp_path: Path) -> None:
    part = tmp_path / "notes.jsonl.part"  # that an interrupted `nextmem encode` left, or the user's own
    part.write_text("mine")
    fake.scope("a").remember("one")
    fake.scope("a").export(tmp_path / "notes.jsonl")
    assert part.read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir() if "notes" in file.name) == [
        "notes.jsonl",
        "notes.jsonl.part",
    ]


def test_an_export_goes_through_a_link_and_into_a_pipe(fake: NextMem, tmp_path: Path) -> None:
    scope = fake.scope("a")
    scope.remember("Lisbon", id="x")
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "there.jsonl")
    assert scope.export(link) == 1
    assert link.is_symlink()
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert scope.export(pipe) == 1
        assert (
            os.read(end, 1 << 16).splitlines()[1:-1]
            == ((tmp_path / "there.jsonl").read_bytes().splitlines()[1:-1])
        )
    finally:
        os.close(end)
    assert pipe.is_fifo()


@pytest.mark.parametrize("path", ["", "a\0b", None, 5, "\ud800"])
def test_what_names_no_file_is_refused(fake: NextMem, path: Any) -> None:
    scope = fake.scope("a")
    for refused in (scope.export, scope.import_):
        with pytest.raises(InvalidArgument, match="file"):
            refused(path)


def test_what_is_skipped_on_import_is_not_superseded_by_what_comes(fake: NextMem, tmp_path: Path) -> None:
    there, here = fake.scope("there"), fake.scope("here")
    there.remember("The file's A.", id="A")
    there.remember("B in its place.", id="B", supersedes="A")
    there.export(tmp_path / "notes.jsonl")
    here.remember("A of its own.", id="A")
    assert here.import_(tmp_path / "notes.jsonl", skip_existing=True) == 1
    assert {each.text for each in here.list()} == {"A of its own.", "B in its place."}
    fresh = fake.scope("fresh")
    assert fresh.import_(tmp_path / "notes.jsonl") == 2
    assert [each.text for each in fresh.list()] == ["B in its place."]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (0, "scope", "\ud800"),
        (0, "fingerprint", None),
        (0, "codec", 5),
        (1, "id", ["a"]),
        (1, "expires_at", "2090-01-01T00:00:00"),
        (1, "terms", {"one": 10**30}),
        (1, "metadata", "deep"),
    ],
)
def test_a_made_up_file_is_an_error_and_nothing_is_imported(
    fake: NextMem, tmp_path: Path, line: int, name: str, value: Any
) -> None:
    path = tmp_path / "notes.jsonl"
    fake.scope("a").remember("one")
    fake.scope("a").export(path)
    lines = path.read_text().splitlines()[:-1]
    values = json.loads(lines[line]) | {name: value}
    lines[line] = json.dumps(values).replace('"deep"', "[" * 100_000 + "]" * 100_000)
    body = "".join(each + "\n" for each in lines).encode()
    digest = blake2b(body, digest_size=32).hexdigest()
    path.write_bytes(body + json.dumps({"versions": 1, "blake2b": digest}).encode() + b"\n")
    with pytest.raises((DataError, InvalidArgument)):
        fake.scope("b").import_(path)
    assert fake.scope("b").count() == 0
