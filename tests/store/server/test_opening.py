"""What a server or a folder must be to be opened, and what is said of one that cannot be."""

from __future__ import annotations

import http.server
import os
import threading

import pytest

from nextmem_agents.errors import (
    InvalidArgument,
    NewerFormat,
    StoreError,
)
from nextmem_agents.store import server_connection
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import DIM
from tests.store.server.chroma_server import ChromaServer

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def ids_of(store, scope="alice"):
    return [record.id for record in store.list(scope)]


def open_folder(folder, **options):
    return ServerStore.open_folder(
        folder, **({"dim": DIM, "fingerprint": "f1", "codec_name": "mini"} | options)
    )


def test_a_server_that_is_down_is_named_with_what_to_do(connect, record, tmp_path, monkeypatch):
    monkeypatch.setattr(server_connection, "PAUSES", (0.05,))
    with pytest.raises(StoreError, match=r"no Chroma server answers at http://127\.0\.0\.1:1 .*chroma run"):
        connect("http://127.0.0.1:1")
    with ChromaServer(tmp_path / "own") as server:
        store = connect(server.url)
        store.put("alice", [record("a")])
        server.kill()
        for call in (
            lambda: store.put("alice", [record("b")]),
            lambda: store.count("alice"),
            lambda: store.forget("alice", ids=["a"]),
        ):
            with pytest.raises(StoreError, match=rf"{server.url} does not answer"):
                call()
        server.start()
        store.put("alice", [record("c")])
        assert ids_of(store) == ["a", "c"]
        server.kill()
        monkeypatch.setattr(server_connection, "PAUSES", (0.5,) * 100)
        restart = threading.Thread(target=server.start)
        restart.start()
        assert store.count("alice") == 2  # a restart is waited for
        restart.join()


def test_another_kind_of_server_is_named(connect):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever).start()
        url = f"http://127.0.0.1:{other.server_port}"
        for status, message in (
            (200, "no Chroma server of version 1.0"),
            (404, "no Chroma"),
            (401, "credentials"),
        ):
            other.status = status
            with pytest.raises(StoreError, match=message):
                connect(url)
        other.shutdown()


def test_a_server_that_does_not_answer_in_time_is_not_waited_for(connect, record):
    with pytest.raises(InvalidArgument, match="timeout"):
        connect(timeout=0)
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(StoreError, match="ReadTimeout"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "http://",
        "http://u:p@host:1",
        "http://host:99999",
        "http://host/path",
        "http://host?a=1",
    ],
)
def test_a_malformed_address_is_refused(connect, url):
    with pytest.raises(InvalidArgument):
        connect(url)


@pytest.mark.parametrize(
    "options", [{"collection": "x"}, {"collection": "a b c"}, {"isolation": "none"}, {"dim": 0}]
)
def test_a_malformed_option_is_refused(connect, options):
    with pytest.raises(InvalidArgument):
        connect(**options)


def test_a_collection_of_another_program_or_version_is_left_alone(connect, collection):
    store = connect()
    client = store._shared.medium._client
    other = client.create_collection(f"{collection}-other", embedding_function=None)
    with pytest.raises(StoreError, match="made by another program"):
        connect(collection=f"{collection}-other")
    other.modify(metadata={"nextmem": 99})
    with pytest.raises(NewerFormat, match="left untouched"):
        connect(collection=f"{collection}-other")
    assert other.count() == 0
    with pytest.raises(StoreError, match=r"isolation='shared'.*isolation='collection'"):
        connect(isolation="collection")


def test_a_fork_is_refused_and_does_the_parent_no_harm(connect, record):
    from tests.store.test_processes import in_fork

    store = connect()
    store.put("alice", [record("a")])
    assert in_fork(lambda: store.count("alice")).startswith("StoreError: this store was opened in process")
    assert in_fork(store.close) == "None"
    assert store.count("alice") == 1


def test_one_process_has_a_chroma_folder_and_all_in_it_share_it(folder, record, process):
    with open_folder(folder) as one, open_folder(folder / ".." / folder.name) as two:
        one.put("alice", [record("a")])
        assert two.count("alice") == 1
        one.close()
        assert two.count("alice") == 1
        child = process(
            "from nextmem_agents.store.server import ServerStore\n"
            f"ServerStore.open_folder({str(folder)!r}, dim=DIM, fingerprint='f1', codec_name='mini')"
        )
        assert (
            f"StoreLocked: {os.path.realpath(folder)} is being written by process" in child.communicate()[0]
        )
        with pytest.raises(StoreError, match="isolation"):
            open_folder(folder, isolation="collection")
    with open_folder(folder, read_only=True) as reader:
        assert reader.count("alice") == 1


def test_a_folder_of_the_other_layout_is_refused(folder, open_store):
    open_store().close()
    with pytest.raises(StoreError, match="made with payload='sqlite'"):
        open_folder(folder)
    with pytest.raises(StoreError, match="no store to read"):
        open_folder(folder / "other", read_only=True)
    with pytest.raises(InvalidArgument, match="needs a folder"):
        open_folder(":memory:", read_only=True)
