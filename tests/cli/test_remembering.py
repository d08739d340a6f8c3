"""Writing and taking away: remember, forget, erase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextmem_agents import NextMem
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers
from tests.conftest import CODEC


@covers(SUCCESS, "remember", "recall", "show")
def test_what_was_remembered_is_recalled(works: Run) -> None:
    words = [
        "--scope",
        "alice",
        "--role",
        "user",
        "--metadata",
        "year=2024",
        "--occurred-at",
        "2024-05-02T12:00Z",
    ]
    [id_] = works(
        "remember", "She moved to Lisbon in May.", *words, "--ttl", "7d", "--session", "s1"
    ).out.split()
    printed = works("recall", "Where did she move?", "--scope", "alice", "-k", 1).out
    assert "She moved to Lisbon in May." in printed
    assert "exact" in printed
    assert id_ in printed
    shown = works("show", id_, "--scope", "alice").out
    assert "year = 2024" in shown
    assert "2024-05-02" in shown
    assert works("show", id_, "--scope", "alice", "--raw").out == "She moved to Lisbon in May."
    assert not works("recall", "Where did she move?", "--scope", "bob").out


@covers(JSON, "remember")
def test_remember_reads_standard_input(works: Run) -> None:
    one = works("remember", "-", "--json", stdin="Two lines,\none memory.\n").json
    assert one["scope"] == "default"
    assert works("show", one["id"], "--raw").out == "Two lines,\none memory."
    assert len(works("remember", "-", "--lines", "--json", stdin="a cat\n\na dog\n").rows) == 2
    again = works("remember", "-", "--lines", "--dedupe", "--id", "x", stdin="a bird\n").out
    assert again == "x\n"


def test_a_scope_can_be_encrypted_from_the_start(
    works: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv("NEXTMEM_ENCRYPTION_KEY", "correct horse battery staple")
    works("remember", "The vault opens at noon.", "--encrypted", "--id", "vault")
    assert "noon" in works("recall", "When does the vault open?").out
    monkeypatch.delenv("NEXTMEM_ENCRYPTION_KEY")


@covers(SUCCESS, "forget")
def test_forget_takes_ids_or_a_filter(works: Run, home: Path) -> None:
    assert works("forget", "ferry", "--scope", "alice", "--yes").out == "1 memories forgotten\n"
    assert works("forget", "--where", "year=2024", "--scope", "alice", "-y").out == "1 memories forgotten\n"
    with NextMem.open(home, codec=CODEC) as memory:
        assert [m.id for m in memory.scope("alice").list()] == ["bread"]


@covers(JSON, "forget", "erase")
def test_erase_prints_its_receipt(works: Run, home: Path) -> None:
    assert works("forget", "ferry", "-s", "alice", "--yes", "--json").json == {
        "forgotten": 1,
        "scope": "alice",
    }
    receipt = works("erase", "--scope", "alice", "--yes", "--json").json
    assert (receipt["memories"], receipt["proven"]) == (2, True)
    assert [row["scope"] for row in works("list", "--scopes", "--json").rows] == ["bob"]


def test_an_encrypted_scope_that_holds_nothing_has_a_key_to_erase(works: Run) -> None:
    pytest.importorskip("cryptography", reason="needs the encryption extra")
    works("remember", "A secret.", "--id", "one", "-s", "alice", "--encrypted")
    works("forget", "one", "-s", "alice", "--yes")
    assert works("erase", "--scope", "alice", "--yes", "--json").json["key_erased"] is True


@covers(SUCCESS, "erase")
def test_erase_asks_first(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("erase", "--scope", "alice").code == 2  # nobody can be asked
    asked = []

    def answer(reply: bool) -> None:
        monkeypatch.setattr("nextmem_agents.cli.output._can_ask", lambda: True)
        monkeypatch.setattr("typer.confirm", lambda question, **_: asked.append(question) or reply)

    answer(False)
    assert run("erase", "--scope", "alice").code == 1
    answer(True)
    done = run("erase", "--scope", "alice")
    assert done.code == 0
    assert "proven: none of their bytes is left" in done.out
    assert len(asked) == 2
    assert "alice" in asked[0]


def test_an_id_moves_no_terminal(works: Run) -> None:
    id_ = "\x1b]0;owned\x07one"
    said = works("remember", "A text.", "--id", id_).out + works("list").out + works("recall", "text").out
    assert "\x1b]" not in said + works("show", id_).out
    assert said.count("owned") == 3


def test_the_id_of_one_text_replaces_with_history(works: Run) -> None:
    works("remember", "The ferry leaves at nine.", "--id", "ferry")
    works("remember", "The ferry leaves at ten.", "--id", "ferry")
    versions = works("show", "ferry", "--history", "--json").rows
    assert [version["text"][-4:] for version in versions] == ["ine.", "ten."]
    assert json.dumps(versions[0]["metadata"]) == "{}"
