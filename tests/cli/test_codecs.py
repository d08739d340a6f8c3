"""About codecs: demo, prepare, convert, evaluate."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from nextmem_agents import LatentCodec, NextMem
from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers
from tests.codec import tiny
from tests.conftest import CODEC


@covers(SUCCESS, "demo")
def test_demo_tells_what_was_recalled_and_what_it_cost(
    works: Run, conversation: Path, codec: LatentCodec
) -> None:
    pytest.importorskip("langchain_classic", reason="the demo's agent is LangChain's")
    printed = works("demo", "--conversation", conversation, "--k", 1, "--store", "kept").out
    flat = " ".join(printed.split())
    assert "evidence hit" in flat
    assert "I adopted a parrot called Kiwi." in flat
    assert "tokens as text" in flat
    assert "1.000 at 1, over 1 questions" in flat
    assert "100.0% of the recalled texts" in flat
    assert "Chroma index" in flat
    with NextMem.open("kept", codec=codec) as memory:
        assert memory.scopes() == ["tiny"]
        assert memory.scope("tiny").count() == 2


@covers(JSON, "demo")
def test_demo_can_be_read_by_a_script(works: Run, conversation: Path) -> None:
    pytest.importorskip("langchain_classic", reason="the demo's agent is LangChain's")
    totals = works("demo", "--conversation", conversation, "--json").json
    assert (totals["questions"], totals["evidence_recall"], totals["exact"]) == (2, 1.0, 1.0)


def test_demo_opens_no_socket(conversation: Path) -> None:
    pytest.importorskip("langchain_classic", reason="the demo's agent is LangChain's")
    script = f"""
        import os, socket, sys
        def refuse(*args, **kwargs):
            raise AssertionError("a socket was opened")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
        from nextmem_agents import cli
        sys.argv = ["nextmem", "demo", "--conversation", {str(conversation)!r}, "--codec", {CODEC!r}]
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code, stop.code
        # What native code opened would still be among the descriptors, or in the process's list of connections.
        from pathlib import Path
        held = {{os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists()}}
        internet = [line.split()[9] for table in ("tcp", "tcp6", "udp", "udp6")
                    for line in Path("/proc/self/net", table).read_text().splitlines()[1:]]
        print("SOCKETS", [inode for inode in internet if f"socket:[{{inode}}]" in held])
    """
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to list file descriptors")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "SOCKETS []" in done.stdout


@covers(SUCCESS, "evaluate reconstruction")
@covers(JSON, "evaluate reconstruction")
def test_reconstruction_prints_a_table_or_json(works: Run, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        "The harbour froze in 1911.\n\n" + "A long winter followed the war. " * 12
    )
    table = works("evaluate", "reconstruction", "t.txt", "--codec", CODEC, "--limit", 2).out
    assert table.startswith("| domain | length | tokens per latent | levels | refinement steps | noise | n |")
    rows = json.loads(works("evaluate", "reconstruction", "t.txt", "--codec", CODEC, "--json").out)
    assert {row["length"] for row in rows} == {16, 32, 64, "whole"}
    assert all(0 <= row["f1"] <= 1 and row["literal"] == 0 for row in rows)


def test_reconstruction_sweeps_and_draws(works: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "t.txt").write_text(
        "The harbour froze in 1911, and thawed in May of the year that followed it."
    )
    options = ["--lengths", "whole", "--levels", "3,16", "--noise", "0,0.5", "--tokens-per-latent", "16"]
    figures = ["--plots", tmp_path / "plots", "--heatmap", tmp_path / "map.png"]
    command = ["evaluate", "reconstruction", tmp_path / "t.txt", "--codec", CODEC, "--json"]
    rows = json.loads(works(*command, *options, *figures).out)
    assert [(row["levels"], row["noise"]) for row in rows] == [(3, 0), (3, 0.5), (16, 0), (16, 0.5)]
    assert rows[0]["latent_bytes"] < rows[2]["latent_bytes"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"noise.png", "rate-distortion.png"}
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@covers(SUCCESS, "prepare")
@covers(JSON, "prepare")
def test_prepare_writes_what_train_reads(works: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(
        "The harbour froze in 1911.\n\nThe harbour froze, in 1911!\n\nA long winter."
    )
    [row] = json.loads(works("prepare", "notes.txt", "--output", "data", "--json").out)
    assert (row["texts"], row["kept"], row["exact_duplicates"]) == (3, 2, 1)
    assert (tmp_path / "data" / "notes.jsonl.xz").is_file()
    printed = works("prepare", "--sources").out
    assert "| SQuAD 1.1 train | encyclopedic, questions | CC BY-SA 4.0 | https://github.com/" in printed


@covers(SUCCESS, "evaluate retrieval")
@covers(JSON, "evaluate retrieval")
def test_retrieval_sets_a_plain_text_memory_beside_ours(works: Run, conversation: Path) -> None:
    [result] = json.loads(works("evaluate", "retrieval", "--conversation", conversation, "--json").out)
    rows = {row["ranking"]: row for row in result["tables"]["All questions"]}
    assert list(rows) == ["fts5", "bm25", "bm25+neighbours", "lexical", "latent", "hybrid"]
    assert all(row["questions"] == 1 for row in rows.values())
    assert rows["fts5"]["recall_5"] == rows["hybrid"]["recall_5"] == 1.0
    assert "| ranking |" in works("evaluate", "retrieval", "--conversation", conversation).out


@covers(SUCCESS, "evaluate latents")
@covers(JSON, "evaluate latents")
def test_latents_alone_are_searched_beside_words_alone(works: Run, conversation: Path) -> None:
    rows = json.loads(works("evaluate", "latents", "--conversation", conversation, "--json").out)
    assert len(rows) >= 3
    assert works("evaluate", "latents", "--conversation", conversation).out.startswith("| ")


@covers(SUCCESS, "evaluate reading")
@covers(JSON, "evaluate reading")
def test_reading_asks_from_text_from_latents_and_from_nothing(
    works: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextmem_agents.evaluation import reading

    @dataclass(frozen=True)
    class Row:
        condition: str
        f1: float

    asked = []
    monkeypatch.setattr(
        reading, "evaluate", lambda codec, facts: asked.append(len(facts)) or [Row("text", 0.5)]
    )
    words = ["evaluate", "reading", "--limit", 2]
    assert json.loads(works(*words, "--json").out) == [{"condition": "text", "f1": 0.5}]
    assert works(*words).out.startswith("| condition | f1 |")
    assert asked == [2, 2]


@covers(SUCCESS, "convert")
@covers(JSON, "convert")
def test_convert_writes_released_folders_in_our_format(works: Run, tmp_path: Path) -> None:
    base, stage_1, stage_2 = tiny.write_official(tmp_path / "released")
    folders = ["--base", base, "--stage-1", stage_1, "--stage-2", stage_2]
    written = works("convert", *folders, "--output", "codec", "--json").json
    assert LatentCodec.load("codec").can_answer
    assert LatentCodec.load("codec").fingerprint == written["fingerprint"]
    assert not [*(tmp_path / "codec").rglob("*.pt"), *(tmp_path / "codec").rglob("*.bin")]
    assert works("convert", *folders, "--output", "other").out == "codec written to other\n"
