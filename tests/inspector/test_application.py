"""What the page may read and change, and what it is told where that fails."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.inspector.application import MAX_PAGE, MAX_TEXTS
from tests.inspector.conftest import BASE, SCRIPT, client_of, read


def test_the_store_is_described(client: TestClient, codec: LatentCodec) -> None:
    store = read(client, "store")
    assert store["scopes"] == [{"name": "alice", "count": 4}, {"name": "bob", "count": 1}]
    assert store["codec"]["fingerprint"] == codec.fingerprint
    assert store["sizes"].keys() >= {"payloads", "vectors"}


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_together_are_the_list(client: TestClient, filled: NextMem, order: str) -> None:
    ids: list[str] = []
    after, more = "", True
    while more:
        page = read(client, "memories", scope="alice", limit=1, after=after, order=order)
        ids += [row["id"] for row in page["rows"]]
        after, more = (ids or [""])[-1], page["more"]
    assert ids == [memory.id for memory in filled.scope("alice").list(newest_first=order == "newest")]


def test_a_filter_narrows_the_list(client: TestClient) -> None:
    rows = read(client, "memories", scope="alice", filter="role=assistant year>=2026")["rows"]
    assert [row["id"] for row in rows] == ["ghent"]


def test_texts_are_what_was_stored(client: TestClient) -> None:
    [found] = read(client, "texts", scope="alice", id="hostile")
    assert (found["text"], found["exact"]) == (SCRIPT, True)


def test_a_text_that_was_forgotten_meanwhile_is_left_out(own: NextMem) -> None:
    client = client_of(own)
    asked = ["ruth", "ghent"]
    assert [t["id"] for t in read(client, "texts", scope="alice", id=asked)] == asked
    own.scope("alice").forget(["ruth"])
    assert [t["id"] for t in read(client, "texts", scope="alice", id=asked)] == ["ghent"]


def test_a_search_gives_scores_whose_parts_add_up(client: TestClient) -> None:
    hits = read(client, "search", scope="alice", query="Where does she live?")["hits"]
    assert {hit["id"] for hit in hits} >= {"home", "ghent"}
    for hit in hits:
        assert hit["score"] == pytest.approx(sum(part["contribution"] for part in hit["parts"]), abs=1e-4)
        assert hit["steps"][0]["name"] == "relevance"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_a_memory_comes_with_its_history_and_provenance(client: TestClient) -> None:
    before, now = read(client, "memory", scope="alice", id="home")["versions"]
    assert (before["text"], before["written_by"]) == ("She lives in Porto.", "agent-1")
    assert (now["text"], now["written_by"], now["derived_from"]) == (
        "She moved to Lisbon in May.",
        "agent-2",
        "chat:7",
    )
    assert before["valid_to"] == now["valid_from"]
    assert now["valid_to"] is None
    assert now["text_bytes"] == len(now["text"])
    assert 0.9 <= now["fidelity"] <= 1


def test_the_bytes_shown_are_the_bytes_kept(tmp_path: Path, codec: LatentCodec) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("plain").remember("She moved to Lisbon.", id="a")
        memory.scope("locked", encrypted=True).remember("She moved to Lisbon.", id="a")
        client = client_of(memory)
        shown = [
            read(client, "memory", scope=name, id="a")["versions"][0]["payload_bytes"]
            for name in ("plain", "locked")
        ]
    with sqlite3.connect(tmp_path / "records.sqlite3") as sql:
        kept = [n for (n,) in sql.execute("SELECT LENGTH(payload) FROM payloads ORDER BY version")]
    sql.close()
    assert shown == kept


def test_an_old_version_can_be_taken_apart_too(client: TestClient) -> None:
    before = read(client, "memory", scope="alice", id="home")["versions"][0]
    chunk = read(client, "chunk", scope="alice", id="home", version=before["version"])
    assert chunk["text"] == "She lives in Porto."


def test_large_integers_stay_exact(own: NextMem) -> None:
    own.scope("alice").remember("A number.", id="n", metadata={"big": 2**60 + 1, "yes": True})
    [version] = read(client_of(own), "memory", scope="alice", id="n")["versions"]
    assert {"name": "big", "value": str(2**60 + 1), "type": "int"} in version["metadata"]
    assert {"name": "yes", "value": "true", "type": "bool"} in version["metadata"]


@pytest.mark.parametrize(
    ("name", "asked", "status"),
    [
        ("memories", {}, 400),
        ("memories", {"scope": "alice", "limit": "0"}, 400),
        ("memories", {"scope": "alice", "limit": str(MAX_PAGE + 1)}, 400),
        ("memories", {"scope": "alice", "limit": "0" * 30 + str(MAX_PAGE + 1)}, 400),
        ("memories", {"scope": "alice", "limit": "0" * 5000 + "x"}, 400),
        ("memories", {"scope": "alice", "limit": "٣"}, 400),
        ("memories", {"scope": "alice", "filter": "role user"}, 400),
        ("memories", {"scope": "alice", "after": "nobody"}, 404),
        ("memories", {"scope": "\x00"}, 400),
        ("texts", {"scope": "alice"}, 400),
        ("texts", {"scope": "alice", "id": ["x"] * (MAX_TEXTS + 1)}, 400),
        ("search", {"scope": "alice"}, 400),
        ("search", {"scope": "alice", "query": "x", "ranking": "best"}, 400),
        ("memory", {"scope": "bob", "id": "home"}, 404),
        ("chunk", {"scope": "alice", "id": "home", "version": "9" * 30}, 400),
        ("chunk", {"scope": "alice", "id": "home", "version": "999"}, 404),
        ("chunk", {"scope": "bob", "id": "home", "version": "1"}, 404),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(
    client: TestClient, name: str, asked: dict[str, Any], status: int
) -> None:
    answer = client.get(f"/api/{name}", params=asked)
    assert answer.status_code == status
    assert answer.json()["error"]


def write(memory: NextMem, name: str, body: Any) -> Any:
    return client_of(memory, origin=BASE).post(f"/api/{name}", json=body)


def test_forgetting_takes_the_typed_word(own: NextMem) -> None:
    asked = {"scope": "alice", "id": "ruth"}
    for confirm in ("", "Forget", "yes", None):
        assert write(own, "forget", asked | {"confirm": confirm}).status_code == 400
    assert own.scope("alice").count() == 4
    assert write(own, "forget", asked | {"confirm": "forget"}).json() == {"forgotten": 1}
    assert own.scope("alice").count() == 3


def test_erasing_takes_the_scopes_own_name_and_leaves_the_others(tmp_path: Path, codec: LatentCodec) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("alice").remember("She moved to Lisbon.")
        memory.scope("bob").remember("Bob keeps bees.")
        for confirm in ("bob", "erase", ""):
            assert write(memory, "erase", {"scope": "alice", "confirm": confirm}).status_code == 400
        receipt = write(memory, "erase", {"scope": "alice", "confirm": "alice"}).json()
        assert (receipt["memories"], receipt["proven"]) == (1, True)
        assert memory.scopes() == ["bob"]


def test_a_read_only_memory_says_so(tmp_path: Path, codec: LatentCodec) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("alice").remember("She moved to Lisbon.", id="a")
    with NextMem.open(tmp_path, codec=codec, read_only=True) as memory:
        answer = write(memory, "forget", {"scope": "alice", "id": "a", "confirm": "forget"})
    assert answer.status_code == 403
    assert "read_only" in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b'{"scope": 1}', b"scope=alice&confirm=alice", b"[" * 60_000]
)
def test_a_write_is_one_json_object(own: NextMem, content: bytes) -> None:
    client = client_of(own, origin=BASE, **{"content-type": "application/json"})
    assert client.post("/api/erase", content=content).status_code == 400
    assert own.scope("alice").count() == 4


def test_a_form_of_another_page_is_no_write(own: NextMem) -> None:
    client = client_of(own, origin=BASE, **{"content-type": "text/plain"})
    assert client.post("/api/erase", content=b'{"scope": "alice", "confirm": "alice"}').status_code == 400


def test_a_damaged_memory_is_shown_as_such_and_spoils_no_other(tmp_path: Path, codec: LatentCodec) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("alice").remember(["One.", "Two."], id=["one", "two"])
    with sqlite3.connect(tmp_path / "records.sqlite3") as sql:
        sql.execute(
            "UPDATE payloads SET payload = X'4E4D01' WHERE version = (SELECT MIN(version) FROM payloads)"
        )
    sql.close()
    with NextMem.open(tmp_path, codec=codec) as memory:
        client = client_of(memory)
        damaged, sound = read(client, "texts", scope="alice", id=["one", "two"])
        assert (damaged["text"], sound["text"]) == (None, "Two.")
        assert "damaged" in damaged["error"]
        [version] = read(client, "memory", scope="alice", id="one")["versions"]
        assert "damaged" in version["error"]
        assert "fidelity" not in version
        assert len(read(client, "map", scope="alice")["points"]) == 1
        assert len(read(client, "search", scope="alice", query="One.")["hits"]) == 2
