"""Opening, reopening, and what stands in the way of it."""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest

from nextmem_agents import (
    CheckpointError,
    CodecMismatch,
    DamagedRecord,
    InvalidArgument,
    LatentCodec,
    NextMem,
    ReadOnlyStore,
    StoreError,
    StoreLocked,
)
from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.errors import KeyMissing
from nextmem_agents.memory import default_folder


def test_a_deep_copy_of_what_holds_a_memory_holds_the_same(memory: NextMem) -> None:
    held = copy.deepcopy({"memory": memory, "scope": memory.scope("a")})
    assert held["memory"] is memory
    held["scope"].remember("One.")  # type: ignore[union-attr]
    assert memory.scope("a").count() == 1


def test_memories_survive_closing(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path / "m", codec=codec) as memory:
        note = memory.scope("alice").remember("She moved to Lisbon.")
    with NextMem.open(tmp_path / "m", codec=codec) as memory:
        alice = memory.scope("alice")
        assert alice.get(note).text == "She moved to Lisbon."
        assert alice.recall("Lisbon", k=1)[0].exact is None


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTMEM_HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home"
    monkeypatch.delenv("NEXTMEM_HOME")
    assert default_folder().name == "nextmem"


def test_opening_twice_in_a_process_gives_the_same_store(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path, codec=codec) as first, NextMem.open(tmp_path, codec=codec) as second:
        note = first.scope("a").remember("shared")
        assert second.scope("a").get(note).text == "shared"


def test_a_second_writing_process_is_refused_and_a_reading_one_is_welcome(
    codec: LatentCodec, tmp_path: Path
) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("a").remember("written by the first")
        script = textwrap.dedent(
            f"""
            from nextmem_agents import NextMem, StoreLocked, ReadOnlyStore
            folder, codec = {str(tmp_path)!r}, {str(codec.folder)!r}
            try:
                NextMem.open(folder, codec=codec)
            except StoreLocked as error:
                print(error)
            with NextMem.open(folder, codec=codec, read_only=True) as reader:
                print([m.text for m in reader.scope("a").list()])
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
        )
        refused, texts = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
        assert "read_only" in refused
        assert texts == "['written by the first']"


@pytest.mark.parametrize("payload", ["sqlite", "chroma"])
def test_a_memory_that_could_not_be_unlocked_is_not_left_open(
    payload: Literal["sqlite", "chroma"], codec: LatentCodec, tmp_path: Path
) -> None:
    folder = tmp_path / "memory"
    with NextMem.open(folder, codec=codec, payload=payload, encryption_key="right") as memory:
        memory.scope("alice", encrypted=True).remember("secret")
    with pytest.raises(KeyMissing):
        NextMem.open(folder, codec=codec, encryption_key="wrong")
    script = f"""
        from nextmem_agents import NextMem
        print(NextMem.open({str(folder)!r}, codec={str(codec.folder)!r}, encryption_key="right").scope("alice").count())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["1"], done.stderr


def test_read_only_refuses_to_write(codec: LatentCodec, tmp_path: Path) -> None:
    NextMem.open(tmp_path, codec=codec).close()
    with NextMem.open(tmp_path, codec=codec, read_only=True) as memory, pytest.raises(ReadOnlyStore):
        memory.scope("a").remember("no")


def test_a_store_of_another_codec_is_refused_by_name(codec: LatentCodec, tmp_path: Path) -> None:
    NextMem.open(tmp_path / "m", codec=codec).close()
    other = other_codec(codec, tmp_path / "other")
    with pytest.raises(CodecMismatch, match="other"):
        NextMem.open(tmp_path / "m", codec=other)
    NextMem.open(tmp_path / "m", codec=codec).close()


@pytest.mark.parametrize("payload", ["sqlite", "chroma"])
def test_the_shipped_codec_that_wrote_a_folder_opens_it_unnamed(tmp_path: Path, payload: Any) -> None:
    with NextMem.open(tmp_path, codec="mini", payload=payload) as memory:
        memory.scope("a").remember("The key is under the blue pot.")
        with NextMem.open(tmp_path) as again:  # while it is open, too
            assert again.codec is memory.codec
    with NextMem.open(tmp_path) as memory:
        assert memory.codec.config.name == "mini"
        assert memory.scope("a").recall("Where is the key?", k=1)[0].text == "The key is under the blue pot."
    with pytest.raises(CodecMismatch, match=r"'mini'.*'mini-16'"):
        NextMem.open(tmp_path, codec="mini-16")


def test_a_new_folder_gets_the_default_codec(tmp_path: Path) -> None:
    for _ in range(2):
        with NextMem.open(tmp_path) as memory:
            assert memory.codec.config.name == DEFAULT_CODEC


def test_what_no_shipped_codec_wrote_has_to_be_named(codec: LatentCodec, tmp_path: Path) -> None:
    NextMem.open(tmp_path / "m", codec=other_codec(codec, tmp_path / "other")).close()
    with pytest.raises(CodecMismatch, match="other"):
        NextMem.open(tmp_path / "m")


def test_the_wrong_embedder_stays_an_error(tmp_path: Path) -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0, len(text)] for text in texts]

    NextMem.open(tmp_path, codec="mini", embedder=embed).close()
    with pytest.raises(CodecMismatch, match=r"mini, embedder .*embed"):
        NextMem.open(tmp_path)
    with NextMem.open(tmp_path, embedder=embed) as memory:
        assert memory.codec.config.name == "mini"


def other_codec(codec: LatentCodec, folder: Path) -> LatentCodec:
    """The same weights under another quantisation table: another codec."""
    from dataclasses import replace

    from nextmem_agents.codec.checkpoint import fingerprint

    shutil.copytree(codec.folder, folder)
    table = tuple(2 * value for value in codec.config.quantization_table or ())
    config = replace(codec.config, name="other", quantization_table=table, fingerprint=None)
    replace(config, fingerprint=fingerprint(folder, config)).save(folder)
    return LatentCodec.load(folder)


def test_a_missing_codec_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give a checkpoint folder"):
        NextMem.open(tmp_path / "m", codec=tmp_path / "nothing")
    assert not (tmp_path / "m").exists()


def test_an_altered_codec_is_refused(codec: LatentCodec, tmp_path: Path) -> None:
    folder = tmp_path / "codec"
    shutil.copytree(codec.folder, folder)
    values = json.loads((folder / "nextmem.json").read_text())
    values["latent_scale"] *= 1.01
    (folder / "nextmem.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="altered"):
        LatentCodec.load(folder)


def test_a_damaged_record_is_one_clear_error_and_the_others_stay_readable(
    codec: LatentCodec, tmp_path: Path
) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        good, bad = memory.scope("a").remember(["The good apple.", "The bad apple."])
    with sqlite3.connect(tmp_path / "records.sqlite3") as sql:
        rows = sql.execute("select version, payload from payloads order by version").fetchall()
        version, payload = rows[1]
        damaged = payload[:40] + bytes([payload[40] ^ 1]) + payload[41:]
        sql.execute("update payloads set payload = ? where version = ?", (damaged, version))
    sql.close()
    with NextMem.open(tmp_path, codec=codec) as memory:
        scope = memory.scope("a")
        by_id = {hit.id: hit for hit in scope.recall("apple", k=2)}
        assert by_id[good].text == "The good apple."
        with pytest.raises(DamagedRecord, match=rf"{bad}.*forget"):
            _ = by_id[bad].text
        assert scope.forget([bad]) == 1
        assert [m.text for m in scope.list()] == ["The good apple."]


def test_a_payload_pasted_into_another_scope_is_refused(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("alice").remember("Alice's secret.", id="n")
        memory.scope("mallory").remember("Nothing here..", id="n")
    with sqlite3.connect(tmp_path / "records.sqlite3") as sql:
        rows = sql.execute("select version, payload from payloads order by version").fetchall()
        sql.execute("update payloads set payload = ? where version = ?", (rows[0][1], rows[1][0]))
    sql.close()
    with NextMem.open(tmp_path, codec=codec) as memory, pytest.raises(DamagedRecord, match="another scope"):
        _ = memory.scope("mallory").get("n").text


def test_a_copy_of_the_text_can_be_kept_or_left_out(codec: LatentCodec, tmp_path: Path) -> None:
    text = "The harbour froze in the winter of 1911, and nobody sailed until March."
    sizes = []
    for keep in (None, True, False):
        with NextMem.open(tmp_path / str(keep), codec=codec, keep_text=keep) as memory:
            memory.scope("a").remember(text, id="n")
        sql = sqlite3.connect(tmp_path / str(keep) / "records.sqlite3")
        sizes.append(sql.execute("select length(payload) from payloads").fetchone()[0])
        sql.close()
    default, kept, left_out = sizes
    assert default == left_out < kept


def test_sizes_tell_the_parts_apart(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("a").remember([f"memory number {i}" for i in range(50)])
        memory.flush()
        sizes = memory.sizes()
    assert set(sizes) == {"payloads", "vectors", "lexical", "records", "chroma"}
    assert sizes["payloads"] > 50 * 128
    assert sizes["chroma"] > 0


def test_rebuild_makes_the_index_anew(codec: LatentCodec, tmp_path: Path) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("a").remember(["one", "two", "three"])
        steps: list[tuple[int, int]] = []
        assert memory.rebuild(lambda done, total: steps.append((done, total))) == 3
        assert steps[-1] == (3, 3)


def test_a_newer_configuration_format_is_refused(codec: LatentCodec, tmp_path: Path) -> None:
    shutil.copytree(codec.folder, tmp_path / "c")
    values = json.loads((tmp_path / "c/nextmem.json").read_text())
    (tmp_path / "c/nextmem.json").write_text(json.dumps(values | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="update nextmem-agents"):
        CodecConfig.load(tmp_path / "c")


def test_locked_is_a_store_error() -> None:
    from nextmem_agents import StoreError

    assert issubclass(StoreLocked, StoreError)


@pytest.mark.parametrize("location", ["", "a\0b", b"folder", 5, Path("a\0b")])
def test_what_is_no_folder_is_refused(location: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="folder"):
        NextMem.open(location)
    assert not list(tmp_path.iterdir())


def test_a_folder_may_begin_with_the_users_home(
    tmp_path: Path, codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with NextMem.open("~/memory", codec=codec):
        assert (tmp_path / "memory" / "records.sqlite3").exists()


def test_a_folder_that_was_deleted_takes_no_more_writes(tmp_path: Path, codec: LatentCodec) -> None:
    with NextMem.open(tmp_path / "memory", codec=codec) as memory:
        memory.scope("ann").remember("One.")
        shutil.rmtree(tmp_path / "memory")
        with pytest.raises(StoreError, match="deleted or replaced"):
            memory.scope("ann").remember("Two.")
        with pytest.raises(StoreError, match="deleted or replaced"):
            NextMem.open(tmp_path / "memory", codec=codec)
    with NextMem.open(tmp_path / "memory", codec=codec) as memory:
        assert memory.scope("ann").count() == 0
