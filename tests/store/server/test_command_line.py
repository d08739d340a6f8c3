"""``nextmem --store http://…``: a server's memory from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextmem_agents.cli import app
from tests.conftest import CODEC
from tests.store.server.chroma_server import ChromaServer


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_servers_memory_is_written_and_read(
    chroma_server: ChromaServer, collection: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEXTMEM_HOME", chroma_server.url)
    monkeypatch.setenv("NEXTMEM_COLLECTION", collection)
    monkeypatch.setenv("NEXTMEM_HEADERS", '{"X-Token": "t"}')
    monkeypatch.setenv("NEXTMEM_CODEC", CODEC)

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    run("remember", "She moved to Lisbon in May.", "--scope", "alice", "--id", "note")
    (tmp_path / "corpus.jsonl").write_text('"The ferry leaves at nine."\n"Bread is sold out."\n')
    assert json.loads(run("encode", tmp_path / "corpus.jsonl", "-s", "alice", "--json"))["written"] == 2
    assert json.loads(run("recall", "Where to?", "-s", "alice", "-k", 1, "--json"))["text"].endswith(".")
    assert json.loads(run("stats", "--json"))["scopes"] == {"alice": 3}
    assert run("forget", "note", "-s", "alice", "--yes") == "1 memories forgotten\n"
    assert json.loads(run("verify", "--json"))["sound"] is True
    assert run("export", tmp_path / "a.jsonl", "-s", "alice").startswith("2 versions")
