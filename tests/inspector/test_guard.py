"""Only the page that the server served itself, with this run's token, learns or changes anything."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from nextmem_agents import NextMem
from tests.inspector.conftest import BASE, PORT, TOKEN, client_of

READS = ["store", "memories", "texts", "search", "memory", "chunk", "sensitivity", "map"]
WRITES = ["forget", "erase"]
FORGET = {"scope": "alice", "id": "ruth", "confirm": "forget"}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN]
)
def test_nothing_is_read_without_the_token(filled: NextMem, name: str, authorization: str) -> None:
    answer = client_of(filled, authorization=authorization).get(f"/api/{name}", params={"scope": "alice"})
    assert answer.status_code == 401
    assert "alice" not in answer.text


@pytest.mark.parametrize("place", ["query", "cookie"])
def test_the_token_counts_in_its_header_only(filled: NextMem, place: str) -> None:
    client = client_of(filled, authorization="")
    if place == "query":
        answer = client.get("/api/store", params={"token": TOKEN})
    else:
        answer = client.get("/api/store", headers={"cookie": f"token={TOKEN}"})
    assert answer.status_code == 401


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize(
    ("authorization", "origin"),
    [("", BASE), ("Bearer wrong", BASE), (f"Bearer {TOKEN}", ""), (f"Bearer {TOKEN}", "http://evil.test")],
)
def test_a_write_needs_the_token_and_the_pages_own_origin(
    own: NextMem, name: str, authorization: str, origin: str
) -> None:
    headers = {"authorization": authorization} | ({"origin": origin} if origin else {})
    answer = client_of(own, **headers).post(f"/api/{name}", json=FORGET | {"confirm": "alice"})
    assert answer.status_code in (401, 403)
    assert own.scope("alice").count() == 4


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        f"evil.test:{PORT}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"localhost.evil.test:{PORT}",
        "",
        "[::1]:4711",
    ],
)
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/store"])
def test_a_name_that_was_pointed_to_this_machine_is_refused(client: TestClient, path: str, host: str) -> None:
    assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}"])
def test_this_machines_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/store", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.test", "null", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:1", "http://127.0.0.1"],
)
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/store"])
def test_other_origins_are_refused(client: TestClient, path: str, origin: str) -> None:
    answer = client.get(path, headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_caused_is_refused(client: TestClient, site: str) -> None:
    assert client.get("/api/store", headers={"sec-fetch-site": site}).status_code == 403


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/store", "/api/nothing", "/nothing"])
def test_every_answer_carries_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("name", READS + WRITES)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client: TestClient, name: str, method: str) -> None:
    assert client.request(method, f"/api/{name}", headers={"origin": BASE}).status_code == 405


@pytest.mark.parametrize("name", WRITES)
def test_a_link_cannot_write(own: NextMem, name: str) -> None:
    assert client_of(own).get(f"/api/{name}", params=FORGET).status_code == 405
    assert own.scope("alice").count() == 4


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd", "/server.py"]
)
def test_only_the_pages_own_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_request_that_is_too_long_is_not_read(client: TestClient) -> None:
    answer = client.post("/api/forget", content=b"x" * 70_000, headers={"origin": BASE})
    assert answer.status_code == 413


def test_the_page_holds_nothing_but_itself(filled: NextMem) -> None:
    answer = client_of(filled, authorization="").get("/")
    assert answer.status_code == 200
    assert "alice" not in answer.text
    assert TOKEN not in answer.text
    assert "//" not in answer.text.replace("<!doctype html>", "")  # no address of anything elsewhere
