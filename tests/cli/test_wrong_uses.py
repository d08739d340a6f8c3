"""A wrong use is one line on standard error and an exit code that says of what kind; never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextmem_agents import InvalidArgument, NextMem, StoreLocked
from nextmem_agents.cli import exits, options
from tests.cli.conftest import Run
from tests.cli.covering import WRONG, covers
from tests.conftest import CODEC

# what is typed, the exit code, a piece of the message
WRONG_USES: list[tuple[str, int, str]] = [
    ("demo --conversation missing.json", 1, "missing.json"),
    ("demo --codec nonsense", 1, "there is no codec 'nonsense'"),
    ("demo --k 0", 2, "equal to 1"),
    ("remember", 2, "TEXT"),
    ("remember -", 2, "empty"),
    ("remember a b --id one", 2, "--id is for one text"),
    ("remember a --metadata year", 2, "--metadata takes KEY=VALUE"),
    ("remember a --ttl soon", 2, "such as 7d"),
    ("remember a --ttl 99999999999999d", 2, "too long"),
    ("remember a --ttl 0s", 2, "such as 7d"),
    ("remember a --scope=", 2, "must not be empty"),
    ("remember a --occurred-at yesterday", 2, "ISO 8601"),
    ("remember a --importance 2", 2, "importance"),
    ("recall question", 3, "there is no store in"),
    ("recall question --store {home} -k 0", 2, "-k"),
    ("recall question --store {home} --where year", 2, "--where takes KEY=VALUE"),
    ("recall question --store {home} --ranking best", 2, "ranking"),
    ("recall - --store {home}", 2, "empty"),
    ("ask", 2, "question"),
    ("ask question --store {home} --mode guess", 2, "mode"),
    ("list --store=", 2, "it is empty"),
    ("list --store nowhere", 3, "there is no store in nowhere"),
    (f"list --store {'a' * 300}", 1, "cannot be read"),
    ("list --store {home} --after nothing", 3, "'nothing'"),
    ("show nothing --store {home}", 3, "no memory 'nothing'"),
    ("forget", 2, "give ids, or --where"),
    ("forget ferry --store {home} -s alice", 2, "--yes"),
    ("forget nothing --store {home} --yes", 3, "'nothing'"),
    ("forget nothing --store nowhere --yes", 3, "there is no store"),
    ("erase --yes", 2, "--scope"),
    ("erase --scope alice --store nowhere --yes", 3, "there is no store"),
    ("erase --scope alcie --store {home} --yes --json", 3, "there is no scope 'alcie'"),
    ("stats --store nowhere", 3, "there is no store"),
    ("stats --store http://127.0.0.1:1", 1, "127.0.0.1:1"),
    ("verify --store nowhere", 3, "there is no store"),
    ("rebuild --store nowhere", 3, "there is no store"),
    ("rebuild --store {home} --codec nonsense", 1, "there is no codec 'nonsense'"),
    ("export", 2, "file"),
    ("export a.jsonl --store nowhere", 3, "there is no store"),
    ("import missing.jsonl --store nowhere", 1, "missing.jsonl"),
    ("import {text} --store nowhere", 1, "is no export"),
    ("encode {text} --store nowhere --scope=", 2, "must not be empty"),
    ("migrate new", 2, "--to-codec"),
    ("migrate {home} --store {home} --to-codec mini", 2, "migrated into itself"),
    ("migrate {home}/../home --store {home} --to-codec mini", 2, "migrated into itself"),
    ("encode missing.txt", 1, "missing.txt"),
    ("encode {text} --workers 0", 2, "workers"),
    ("encode {text} --ray", 2, "--ray writes to a Chroma server"),
    ("encode {text} --output a.jsonl --encrypted", 2, "--encrypted"),
    ("prepare missing.txt", 2, "--output FOLDER"),
    ("prepare missing.txt --output data", 1, "missing.txt"),
    ("convert --base b", 2, "--stage-1"),
    ("convert --base b --stage-1 c --stage-2 d --output e", 1, "b"),
    ("evaluate reconstruction missing.txt", 1, "missing.txt"),
    ("evaluate reconstruction --lengths 16,many", 2, "--lengths takes numbers"),
    ("evaluate reconstruction --levels 3;4", 2, "--levels takes numbers"),
    ("evaluate reconstruction --levels 5", 2, "levels must be 2, 3, 4, 8 or 16"),
    ("evaluate retrieval --conversation missing.json", 1, "missing.json"),
    ("evaluate qa missing.json", 1, "missing.json"),
    ("evaluate locomo missing.json", 1, "missing.json"),
    ("evaluate longmemeval missing.json", 1, "missing.json"),
    ("evaluate latents --limit 1", 2, "limit"),
    ("evaluate reading --questions missing.jsonl", 1, "missing.jsonl"),
    ("train --data nowhere --output run", 1, "nowhere holds no"),
    ("train --data . --output run --config missing.json", 1, "missing.json"),
    ("train language-model --data nowhere --output run", 1, "nowhere"),
    ("train stage-1 --data d --output run", 2, "--backbone"),
    ("train stage-2 --backbone b", 2, "--stage-1"),
    ("train index-head --data nowhere --output run", 1, "nowhere"),
    ("train word-vectors --data nowhere --output run", 1, "nowhere"),
    ("train reader --data nowhere --output run", 1, "nowhere"),
    ("train span-reader --data nowhere --output run", 1, "nowhere"),
    ("bench --codec nonsense", 1, "there is no codec 'nonsense'"),
    ("doctor --texts --store", 2, "--store"),
    ("inspect --port 70000", 2, "port"),
    ("inspect --store nowhere", 3, "there is no store"),
    ("inspect --store nowhere --read-only", 3, "there is no store"),
    ("mcp --transport pigeon", 2, "transport"),
    ("mcp --transport http --port 0 --json", 2, "--port"),
    ("mcp --store nowhere --read-only", 3, "there is no store"),
    ("dance", 2, "dance"),
]
for typed, _, _ in WRONG_USES:
    words = typed.split()
    two = words[0] in ("evaluate", "train") and not words[1].startswith("-")
    if typed != "dance":
        covers(WRONG, " ".join(words[: 2 if two else 1]))


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("wrong")
    with NextMem.open(folder / "home", codec=CODEC) as memory:
        memory.scope("alice").remember("The ferry leaves at nine.", id="ferry")
    (folder / "text.txt").write_text("one\n")
    return {"home": str(folder / "home"), "text": str(folder / "text.txt")}


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize(("typed", "code", "message"), WRONG_USES, ids=[use[0] for use in WRONG_USES])
def test_a_wrong_use(run: Run, readable: dict[str, str], typed: str, code: int, message: str) -> None:
    ended = run(*[word.format(**readable) if "{" in word else word for word in typed.split()])
    assert ended.code == code, ended.err
    assert message in " ".join(ended.err.split())
    assert not ended.out
    assert not Path("nowhere").exists()
    assert not Path("home").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list"], 3),
        (["list", "--limit", "none"], 2),
        (["recall"], 2),
        (["dance"], 2),
        (["recall", "-", "--store", "{home}"], 2),
    ],
)
def test_a_script_gets_the_error_as_json(
    run: Run, readable: dict[str, str], words: list[str], code: int
) -> None:
    ended = run(*[word.format(**readable) for word in words], "--json")
    assert set(json.loads(ended.err)) == {"error", "message"}
    assert (ended.code, ended.out) == (code, "")


def test_only_debug_shows_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("nextmem_agents.cli.stores.opened", broken)
    ended = run("stats")
    assert (ended.code, ended.err) == (1, "nextmem: RuntimeError: a bug; --debug shows where\n")
    for words in (["stats", "--debug"], ["--debug", "stats"]):
        assert "Traceback (most recent call last)" in run(*words).err
    assert run("remember", "--", "--debug").code == 0


def test_a_second_writer_is_told_who_writes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> None:
        raise StoreLocked("it is being written by process 7")

    monkeypatch.setattr("nextmem_agents.memory.NextMem.open", locked)
    ended = run("remember", "a")
    assert (ended.code, ended.err) == (5, "nextmem: it is being written by process 7\n")


def test_an_interruption_and_a_closed_pipe_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exits.run(interrupted, ["stats"]) == 130
    script = "import sys\nfrom nextmem_agents.cli.exits import run\n" + (
        "def app():\n    while True:\n        print('x' * 1000)\nsys.exit(run(app, []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_a_closed_pipe_is_the_end_of_the_command_itself(readable: dict[str, str]) -> None:
    command = [sys.executable, "-m", "nextmem_agents.cli", "list", "-s", "alice", "--store", readable["home"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_an_interruption_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nextmem_agents.cli.stores.opened", interrupted)
    assert run("stats").err == "nextmem: interrupted\n"
    ended = run("stats", "--json")
    assert (ended.code, json.loads(ended.err)["error"]) == (130, "KeyboardInterrupt")


def test_the_server_settings_come_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTMEM_HEADERS", "Bearer x")
    ended = run("stats", "--store", "http://127.0.0.1:1")
    assert ended.code == 2
    assert "NEXTMEM_HEADERS is a JSON object" in ended.err


def test_values_are_read_as_json_where_they_are_json() -> None:
    given = ["a=1", "b=true", "c=1.5", "d=plain", 'e={"$in": [1, 2]}', "f=null", "g=a=b"]
    found = options.pairs("--where", given)
    assert found == {"a": 1, "b": True, "c": 1.5, "d": "plain", "e": {"$in": [1, 2]}, "f": "null", "g": "a=b"}


def test_fields_that_are_words_are_read_as_words(run: Run) -> None:
    assert options.pairs("--where", ["session=123", "year=123"]) == {"session": "123", "year": 123}
    assert options.pairs("--where", ['session={"$ne": "s"}']) == {"session": {"$ne": "s"}}
    run("remember", "a", "--session", "123")
    assert run("list", "--where", "session=123").out


def test_lines_end_where_a_file_ends_them(run: Run) -> None:
    run("remember", "-", "--lines", stdin="one\u2028more\x0b\r\n\ntwo\n")
    assert [row["text"] for row in map(json.loads, run("list", "--json").out.splitlines())] == [
        "one\u2028more\x0b", "two",
    ]  # fmt: skip


def test_a_closed_standard_input_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InvalidArgument, match="closed"):
        options.texts_of(["-"], False)


def test_the_command_runs_as_a_module_and_completes_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nextmem_agents.cli"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nextmem-agents ")
    environment = os.environ | {
        "_NEXTMEM_COMPLETE": "complete_bash",
        "COMP_WORDS": "nextmem rec",
        "COMP_CWORD": "1",
    }
    script = "import sys; sys.argv = ['nextmem']; from nextmem_agents.cli import main; main()"
    completed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert completed.stdout.split() == ["recall"]
