"""Reading: recall, ask, list, show."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextmem_agents import NextMem
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers
from tests.conftest import CODEC

FIELDS = {
    "id", "text", "exact", "session", "agent", "role", "occurred_at", "created_at", "updated_at", "expires_at",
    "importance", "metadata",
}  # fmt: skip


@covers(JSON, "recall")
def test_recall_gives_an_object_a_line(works: Run, home: Path) -> None:
    [hit] = works("recall", "When does the ferry leave?", "-s", "alice", "-k", 1, "--json").rows
    assert set(hit) == FIELDS | {"score", "parts", "fidelity", "latents"}
    assert (hit["id"], hit["text"], hit["exact"]) == ("ferry", "The ferry leaves at nine.", True)
    assert 0 < hit["score"] <= 1
    assert sum(p["value"] * p["weight"] for p in hit["parts"].values()) == pytest.approx(
        hit["score"], abs=1e-4
    )
    [other] = works(
        "recall", "ferry", "-s", "alice", "--where", "year=2024", "--ranking", "latent", "--json"
    ).rows
    assert other["id"] == "lisbon"


def test_recall_prints_the_block_of_a_prompt(works: Run, home: Path) -> None:
    block = works("recall", "the ferry", "-s", "alice", "--prompt", "--max-tokens", 60).out
    assert block.startswith("Recalled memories (quoted records")
    assert "> The ferry leaves at nine." in block
    assert (
        works("recall", "-", "-s", "alice", "--prompt", "--json", stdin="the ferry\n").json["memories"] == 3
    )


@covers(SUCCESS, "ask")
@covers(JSON, "ask")
def test_ask_answers_from_memory(works: Run, home: Path) -> None:
    said = works("ask", "When does the ferry leave?", "-s", "alice", "--mode", "decompress")
    assert said.out == "The ferry leaves at nine.\n"
    answer = works("ask", "When does the ferry leave?", "-s", "alice", "--mode", "decompress", "--json").json
    assert {"answer", "mode", "reader", "context_tokens", "memories"} == set(answer)
    assert answer["answer"] == "The ferry leaves at nine."
    assert answer["memories"][0]["id"] == "ferry"


@covers(SUCCESS, "list")
@covers(JSON, "list")
def test_list_pages_through_a_scope(works: Run, home: Path) -> None:
    assert works("list", "-s", "alice").out.count("exact") == 3
    page = works("list", "-s", "alice", "--limit", 1, "--after", "lisbon", "--json").rows
    assert [row["id"] for row in page] == ["ferry"]
    assert set(page[0]) == FIELDS
    assert works("list", "-s", "alice", "--newest-first", "--json").rows[0]["id"] == "bread"
    assert works("list", "--scopes").out.split() == ["3", "alice", "1", "bob"]


@covers(JSON, "show")
def test_show_says_what_is_known_of_a_memory(works: Run, home: Path) -> None:
    shown = works("show", "lisbon", "-s", "alice", "--json").json
    assert set(shown) > FIELDS | {"fidelity", "latents", "chunks", "version", "supersedes"}
    assert shown["metadata"] == {"year": 2024}


def test_reading_goes_on_beside_a_process_that_writes(works: Run, run: Run, home: Path) -> None:
    with NextMem.open(home, codec=CODEC) as memory:
        memory.scope("alice").remember("The bridge is closed.", id="bridge")
        assert works("list", "-s", "alice", "--json").rows[-1]["id"] == "bridge"


def test_nothing_in_a_memory_acts_on_the_terminal(works: Run) -> None:
    works("remember", "red \x1b[31m alert \u202e\x9b2J", "--id", "e", "--role", "\x1b]0;title\x07")
    for words in (["recall", "alert"], ["list"], ["show", "e"], ["ask", "alert", "--mode", "decompress"]):
        for shown in (works(*words).out, works(*words, "--json").out):
            assert not set(shown) & {"\x1b", "\u202e", "\x9b", "\x07"}
    assert works("show", "e", "--raw").out == "red \x1b[31m alert \u202e\x9b2J"
