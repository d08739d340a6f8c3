"""Over a whole store: stats, verify, rebuild, export, import, migrate."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from nextmem_agents import LatentCodec, NextMem
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers
from tests.conftest import CODEC


@covers(SUCCESS, "stats", "verify", "rebuild")
def test_what_a_store_says_of_itself(works: Run, home: Path) -> None:
    said = works("stats").out
    assert "4 memories in 2 scopes; codec" in said
    assert "3  alice" in said
    assert "4 memories, 4 versions, 4 chunks" in works("verify", "--texts").out
    assert works("rebuild").out == "4 vectors indexed\n"


@covers(JSON, "stats", "verify", "rebuild")
def test_what_a_store_says_to_scripts(works: Run, home: Path) -> None:
    stats = works("stats", "--json").json
    assert stats["scopes"] == {"alice": 3, "bob": 1}
    assert stats["memories"] == 4
    assert set(stats) == {"store", "codec", "fingerprint", "memories", "scopes", "bytes"}
    report = works("verify", "--json").json
    assert (report["sound"], report["n_memories"], report["damaged"]) == (True, 4, [])
    assert works("rebuild", "--json").json == {"vectors": 4}


def test_damage_is_named_and_has_its_exit_code(run: Run, home: Path) -> None:
    with sqlite3.connect(home / "records.sqlite3") as sql:
        sql.execute("UPDATE payloads SET payload = zeroblob(40) WHERE rowid = 1")
    sql.close()
    report = run("verify")
    assert report.code == 4
    assert "damaged: 'lisbon' in scope 'alice'" in report.out
    assert run("doctor", "--json").code == 4
    assert run("show", "lisbon", "-s", "alice").code == 4


@pytest.mark.parametrize("command", ["verify", "list", "remember more"])
def test_records_that_are_lost_or_malformed_are_damage_and_nothing_is_mended(
    run: Run, home: Path, command: str
) -> None:
    records = home / "records.sqlite3"
    assert (home / "chroma" / "chroma.sqlite3").exists()
    for damage in (records.unlink, records.touch, lambda: records.write_bytes(b"not a database" * 99)):
        damage()
        before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
        ended = run(*command.split())
        assert ended.code == 4, ended.err
        assert "records.sqlite3 is" in ended.err
        assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == before


@covers(SUCCESS, "export", "import")
@covers(JSON, "export", "import")
def test_a_scope_travels_as_a_file(works: Run, home: Path, tmp_path: Path) -> None:
    assert works("export", "a.jsonl", "-s", "alice").out == "3 versions written to a.jsonl\n"
    assert works("export", "a.jsonl", "-s", "alice", "--force", "--json").json == {
        "versions": 3, "file": "a.jsonl", "scope": "alice",
    }  # fmt: skip
    assert works("import", "a.jsonl", "-s", "new", "--store", "elsewhere").out.startswith(
        "3 memories imported"
    )
    skipped = works(
        "import", "a.jsonl", "-s", "new", "--store", "elsewhere", "--skip-existing", "--json"
    ).json
    assert skipped["memories"] == 0
    assert (
        works("show", "ferry", "-s", "new", "--store", "elsewhere", "--raw").out
        == "The ferry leaves at nine."
    )


def test_an_export_replaces_nothing_unasked(run: Run, home: Path, tmp_path: Path) -> None:
    (tmp_path / "backup.jsonl").write_text("a backup")
    there = run("export", "backup.jsonl", "-s", "alice")
    assert (there.code, "is there already" in there.err) == (2, True)
    for place in (home / "records.sqlite3", home / "new.jsonl", tmp_path):
        assert run("export", place, "-s", "alice", "--force").code == 2
    mistyped = run("export", "backup.jsonl", "-s", "alcie", "--force")
    assert (mistyped.code, "holds no memory" in mistyped.err) == (3, True)
    assert (tmp_path / "backup.jsonl").read_text() == "a backup"
    assert not (home / "new.jsonl").exists()
    assert run("list", "-s", "alice").code == 0


@covers(SUCCESS, "migrate")
@covers(JSON, "migrate")
def test_migrate_writes_another_codecs_store(
    works: Run, home: Path, tmp_path: Path, codec: LatentCodec
) -> None:
    other = tmp_path / "codec"
    LatentCodec.load(codec.folder or "mini", levels=4).save_pretrained(other)
    tried = works("migrate", "new", "--to-codec", other, "--dry-run").out
    assert tried == "4 versions would be migrated, 0 were there before\n"
    assert not (tmp_path / "new").exists()
    done = works("migrate", "new", "--to-codec", other, "--json").json
    assert (done["migrated"], done["damaged"]) == (4, [])
    with NextMem.open("new", codec=other) as memory:
        assert memory.scope("alice").get("ferry").text == "The ferry leaves at nine."
    shutil.rmtree("new")


def test_a_store_is_opened_with_the_codec_that_wrote_it(works: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXTMEM_CODEC")
    works("remember", "The key is under the blue pot.", "--store", "old", "--codec", "mini")
    works("remember", "Rex is a dog.", "--store", "old")
    assert works("stats", "--store", "old", "--json").json["codec"] == "mini"
    assert works("migrate", "new", "--to-codec", CODEC, "--store", "old", "--json").json["migrated"] == 2
    assert "blue pot" in works("recall", "the key", "--store", "new").out
