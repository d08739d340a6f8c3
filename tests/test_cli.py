"""The command line, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextmem_agents import LatentCodec, NextMem, cli
from tests.codec import tiny
from tests.conftest import CODEC

CONVERSATION = [
    {
        "sample_id": "tiny",
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Bob",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ann", "dia_id": "D1:1", "text": "I adopted a parrot called Kiwi."},
                {"speaker": "Bob", "dia_id": "D1:2", "text": "My train leaves at nine."},
            ],
        },
        "qa": [
            {
                "question": "What is Ann's parrot called?",
                "answer": "Kiwi",
                "evidence": ["D1:1"],
                "category": 4,
            },
            {"question": "Does Bob ski?", "adversarial_answer": "yes", "evidence": [], "category": 5},
        ],
    }
]


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["nextmem", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code
    return capsys.readouterr().err


@pytest.fixture
def conversation(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONVERSATION))
    return path


def test_demo_tells_what_was_recalled_and_what_it_cost(conversation: Path) -> None:
    pytest.importorskip("langchain_classic", reason="the demo's agent is LangChain's")
    printed = run("demo", "--conversation", conversation, "--codec", CODEC, "--k", 1)
    flat = " ".join(printed.split())
    assert "evidence hit" in flat
    assert "I adopted a parrot called Kiwi." in flat
    assert "tokens as text" in flat
    assert "1.000 at 1, over 1 questions" in flat
    assert "100.0% of the recalled texts" in flat
    assert "Chroma index" in flat


def test_demo_can_keep_its_store(conversation: Path, tmp_path: Path, codec: LatentCodec) -> None:
    pytest.importorskip("langchain_classic", reason="the demo's agent is LangChain's")
    run(
        "demo", "--conversation", conversation, "--codec", CODEC, "--store", tmp_path / "kept", "--no-details"
    )
    with NextMem.open(tmp_path / "kept", codec=codec) as memory:
        assert memory.scopes() == ["tiny"]
        assert memory.scope("tiny").count() == 2


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


def test_reconstruction_prints_a_table_or_json(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        "The harbour froze in 1911.\n\n" + "A long winter followed the war. " * 12
    )
    table = run("evaluate", "reconstruction", tmp_path / "t.txt", "--codec", CODEC, "--limit", 2)
    assert table.startswith("| domain | length | tokens per latent | levels | noise | n |")
    rows = json.loads(run("evaluate", "reconstruction", tmp_path / "t.txt", "--codec", CODEC, "--json"))
    assert {row["length"] for row in rows} == {16, 32, 64, "whole"}
    assert all(0 <= row["f1"] <= 1 and row["literal"] == 0 for row in rows)


def test_reconstruction_sweeps_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "t.txt").write_text(
        "The harbour froze in 1911, and thawed in May of the year that followed it."
    )
    options = ["--lengths", "whole", "--levels", "3,16", "--noise", "0,0.5", "--tokens-per-latent", "8"]
    figures = ["--plots", tmp_path / "plots", "--heatmap", tmp_path / "map.png"]
    command = ["evaluate", "reconstruction", tmp_path / "t.txt", "--codec", CODEC, "--json"]
    rows = json.loads(run(*command, *options, *figures))
    assert [(row["levels"], row["noise"]) for row in rows] == [(3, 0), (3, 0.5), (16, 0), (16, 0.5)]
    assert rows[0]["latent_bytes"] < rows[2]["latent_bytes"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"noise.png", "rate-distortion.png"}
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_prepare_writes_what_train_reads(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(
        "The harbour froze in 1911.\n\nThe harbour froze, in 1911!\n\nA long winter."
    )
    [row] = json.loads(run("prepare", tmp_path / "notes.txt", "--output", tmp_path / "data", "--json"))
    assert (row["texts"], row["kept"], row["exact_duplicates"]) == (3, 2, 1)
    assert (tmp_path / "data" / "notes.jsonl.xz").is_file()


def test_prepare_names_public_sources_with_their_licences() -> None:
    printed = run("prepare", "--sources")
    assert "| SQuAD 1.1 train | encyclopedic, questions | CC BY-SA 4.0 | https://github.com/" in printed


def test_retrieval_sets_a_plain_text_memory_beside_ours(conversation: Path) -> None:
    rows = json.loads(run("evaluate", "retrieval", "--conversation", conversation, "--json"))
    assert [row["ranking"] for row in rows] == ["fts5", "lexical", "latent", "hybrid"]
    assert all(row["questions"] == 1 for row in rows)
    assert rows[0]["recall_5"] == rows[3]["recall_5"] == 1.0


def test_rebuild_counts_the_vectors(tmp_path: Path, codec: LatentCodec) -> None:
    with NextMem.open(tmp_path, codec=codec) as memory:
        memory.scope("a").remember(["one", "two"])
    assert "2 vectors indexed" in run("rebuild", "--store", tmp_path, "--codec", CODEC)


def test_convert_writes_released_folders_in_our_format(tmp_path: Path) -> None:
    base, stage_1, stage_2 = tiny.write_official(tmp_path / "released")
    run("convert", "--base", base, "--stage-1", stage_1, "--stage-2", stage_2, "--output", tmp_path / "codec")
    assert LatentCodec.load(tmp_path / "codec").can_answer
    assert not [*(tmp_path / "codec").rglob("*.pt"), *(tmp_path / "codec").rglob("*.bin")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--conversation", "missing.json"], "missing.json"),
        (["demo", "--codec", "nonsense"], "there is no codec 'nonsense'"),
        (["rebuild", "--codec", "nonsense"], "there is no codec 'nonsense'"),
        (["evaluate", "reconstruction", "missing.txt"], "missing.txt"),
        (["evaluate", "reconstruction", "--lengths", "16,many"], "--lengths takes numbers"),
        (["evaluate", "reconstruction", "--levels", "3;4"], "--levels takes numbers"),
        (["evaluate", "reconstruction", "--levels", "5"], "levels must be 2, 3, 4, 8 or 16"),
        (["prepare", "missing.txt"], "--output FOLDER"),
        (["prepare", "missing.txt", "--output", "data"], "missing.txt"),
        (["train", "--data", "nowhere", "--output", "run"], "nowhere holds no"),
        (["train", "--data", ".", "--output", "run", "--config", "missing.json"], "missing.json"),
        (["demo", "--k", "0"], "equal to 1"),
        (["dance"], "dance"),
    ],
)
def test_a_wrong_argument_is_one_line_and_a_bad_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("NEXTMEM_HOME", str(tmp_path / "home"))
    if arguments[0] == "evaluate":
        arguments = [*arguments, "--codec", str(Path(CODEC).absolute() if "/" in CODEC else CODEC)]
    monkeypatch.chdir(tmp_path)
    error = fails(monkeypatch, capsys, *arguments)
    assert message in error
    assert "Traceback" not in error
