from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import NextMem, cli
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


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object that was printed."""
        [value] = self.rows
        return value

    @property
    def rows(self) -> list[Any]:
        """One object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``nextmem`` as a person types it, in this process, in an empty folder, with a store of its own."""
    for name in ("NEXTMEM_SCOPE", "NEXTMEM_COLLECTION", "NEXTMEM_HEADERS", "NEXTMEM_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEXTMEM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEXTMEM_CODEC", str(Path(CODEC).absolute()) if "/" in CODEC else CODEC)
    monkeypatch.chdir(tmp_path)

    def typed(*words: object, stdin: str | None = None) -> Ended:
        monkeypatch.setattr(sys, "argv", ["nextmem", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        assert "--debug" in words or "Traceback" not in printed.err
        return Ended(int(stop.value.code or 0), printed.out, printed.err)

    return typed


@pytest.fixture
def works(run: Run) -> Run:
    """The same, for what has to succeed."""

    def typed(*words: object, stdin: str | None = None) -> Ended:
        ended = run(*words, stdin=stdin)
        assert ended.code == 0, ended.err
        return ended

    return typed


@pytest.fixture
def conversation(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONVERSATION))
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "home"
    with NextMem.open(folder, codec=CODEC) as memory:
        alice = memory.scope("alice")
        alice.remember(
            "She moved to Lisbon in May.", id="lisbon", role="user", session="s1", metadata={"year": 2024}
        )
        alice.remember(
            ["The ferry leaves at nine.", "Bread is sold out."], id=["ferry", "bread"], session="s2"
        )
        memory.scope("bob").remember("Bob skis.", id="skis")
    return folder


@pytest.fixture
def home(run: Run, made: Path, tmp_path: Path) -> Path:
    """A store of its own with three memories in one scope and one in another."""
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"
