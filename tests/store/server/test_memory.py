"""``NextMem`` over a Chroma server and over payloads in Chroma: the same memory, from the outside."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nextmem_agents import CodecMismatch, InvalidArgument, LatentCodec, NextMem, StoreError
from nextmem_agents.errors import DamagedStore
from nextmem_agents.store.server import ServerStore
from tests.store.server.chroma_server import ChromaServer

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.mark.parametrize("isolation", ["shared", "collection"])
def test_memories_on_a_server_come_back_exactly(
    codec: LatentCodec, chroma_server: ChromaServer, collection: str, isolation: str
) -> None:
    options = {"codec": codec, "collection": collection, "isolation": isolation}
    with NextMem.open(chroma_server.url, **options) as memory:
        alice = memory.scope("alice")
        note = alice.remember("She moved to Lisbon in May.", role="user")
        alice.remember(["The ferry was late.", "Bread is sold out."])
        with NextMem.open(chroma_server.url, **options) as elsewhere:
            hit = elsewhere.scope("alice").recall("Where did she move?", k=1)[0]
            assert (hit.id, hit.text, hit.exact) == (note, "She moved to Lisbon in May.", True)
            assert list(elsewhere.scope("bob").recall("Where did she move?")) == []
            assert elsewhere.scope("alice").forget([note]) == 1
        assert "Lisbon" not in str([m.text for m in alice.list()])
        assert memory.scopes() == ["alice"]


def test_another_process_reads_what_this_one_wrote(
    codec: LatentCodec, chroma_server: ChromaServer, collection: str
) -> None:
    with NextMem.open(chroma_server.url, codec=codec, collection=collection) as memory:
        memory.scope("alice").remember("The key is under the mat.")
    script = textwrap.dedent(
        f"""
        from nextmem_agents import NextMem
        with NextMem.open({chroma_server.url!r}, codec={str(codec.folder)!r}, collection={collection!r}) as memory:
            print(memory.scope("alice").recall("Where is the key?", k=1)[0].text)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout.strip() == "The key is under the mat."


def test_payloads_can_lie_in_chroma_in_a_folder(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path / "m", codec=codec, payload="chroma") as memory:
        note = memory.scope("alice").remember("She moved to Lisbon in May.")
    assert not (tmp_path / "m" / "records.sqlite3").exists()
    with NextMem.open(tmp_path / "m", codec=codec) as memory:  # it is known how the folder was made
        assert memory.scope("alice").get(note).text == "She moved to Lisbon in May."
    with pytest.raises(StoreError, match="made with payload='chroma'"):
        NextMem.open(tmp_path / "m", codec=codec, payload="sqlite")
    NextMem.open(tmp_path / "sqlite", codec=codec).close()
    with pytest.raises(StoreError, match="made with payload='sqlite'"):
        NextMem.open(tmp_path / "sqlite", codec=codec, payload="chroma")


@pytest.mark.parametrize("emptied", [False, True])
def test_graphs_without_chromas_database_are_no_new_store(
    codec: LatentCodec, tmp_path: Path, emptied: bool
) -> None:
    with NextMem.open(tmp_path / "m", codec=codec, payload="chroma") as memory:
        memory.scope("alice").remember("She moved to Lisbon in May.")
    data = tmp_path / "m" / "collection"
    database = data / "chroma.sqlite3"
    (data / "a graph").mkdir(exist_ok=True)  # Chroma makes one once a collection is large enough
    database.write_bytes(b"") if emptied else database.unlink()
    with pytest.raises(DamagedStore, match="restore the folder"):
        NextMem.open(tmp_path / "m", codec=codec)
    assert database.exists() == emptied


def test_what_does_not_go_together_is_refused(codec: LatentCodec, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="payload is 'sqlite' or 'chroma'"):
        NextMem.open(tmp_path, codec=codec, payload="disk")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="leave payload out"):
        NextMem.open("http://127.0.0.1:1", codec=codec, payload="sqlite")
    with pytest.raises(InvalidArgument, match="payload='chroma'"):
        NextMem.open(tmp_path, codec=codec, isolation="collection")
    with pytest.raises(StoreError, match="no Chroma server answers"):
        NextMem.open("http://127.0.0.1:1", codec=codec)


def test_a_server_of_another_codec_is_refused_by_name(
    codec: LatentCodec, chroma_server: ChromaServer, collection: str
) -> None:
    options = {"dim": codec.dim, "codec_name": "qwen", "collection": collection}
    ServerStore.open(chroma_server.url, fingerprint="another", **options).close()
    with pytest.raises(CodecMismatch, match="'qwen'"):
        NextMem.open(chroma_server.url, codec=codec, collection=collection)


def test_the_shipped_codec_that_wrote_a_server_opens_it_unnamed(
    chroma_server: ChromaServer, collection: str
) -> None:
    with NextMem.open(chroma_server.url, codec="mini", collection=collection) as memory:
        memory.scope("a").remember("one")
    with NextMem.open(chroma_server.url, collection=collection) as memory:
        assert (memory.codec.config.name, memory.scope("a").count()) == ("mini", 1)


async def test_the_event_loop_goes_on_while_the_server_is_slow(
    codec: LatentCodec, chroma_server: ChromaServer, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ServerStore.put

    def slow(store: ServerStore, *arguments: object) -> object:
        time.sleep(0.5)
        return put(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ServerStore, "put", slow)
    with NextMem.open(chroma_server.url, codec=codec, collection=collection) as memory:
        alice = memory.scope("alice")
        writing = asyncio.gather(*(alice.aremember(f"memory number {i}") for i in range(3)))
        ticks = 0
        while not writing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert len(await writing) == 3
        assert ticks > 10
        assert len(await alice.arecall("memory", k=3)) == 3
