"""Until it is stopped: inspect, mcp. What they serve is tested beside the MCP server and the inspector."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers
from tests.conftest import CODEC


@covers(JSON, "mcp")
def test_mcp_prints_what_a_client_is_configured_with(works: Run, home: Path) -> None:
    entry = works("mcp", "--scope", "alice", "--read-only", "--json").json["mcpServers"]["nextmem"]
    assert Path(entry["command"]).exists()
    assert entry["args"][-7:-4] == ["--store", str(home), "--scope"]
    assert entry["args"][-4] == "alice"
    assert entry["args"][-1] == "--read-only"
    relative = works("mcp", "--store", "home", "--json").json["mcpServers"]["nextmem"]
    assert relative["args"][relative["args"].index("--store") + 1] == str(home)
    http = works("mcp", "--transport", "http", "--port", "9000", "--json").json["mcpServers"]["nextmem"]
    assert http == {"type": "http", "url": "http://127.0.0.1:9000/mcp"}


@covers(SUCCESS, "mcp")
def test_mcp_serves_the_scope_it_was_given(works: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mcp_server = pytest.importorskip("nextmem_agents.mcp_server", reason="needs the MCP SDK")
    served = []
    monkeypatch.setattr(
        mcp_server, "serve_stdio", lambda scope, read_only: served.append((scope.name, read_only))
    )
    works("mcp", "--scope", "alice", "--read-only")
    assert served == [("alice", True)]


@contextmanager
def inspecting(home: Path, *words: str) -> Iterator[IO[str]]:
    command = [
        sys.executable,
        "-m",
        "nextmem_agents.cli",
        "inspect",
        "--store",
        str(home),
        "--codec",
        CODEC,
        *words,
    ]
    # A shell ignores interrupts in what it starts in the background, and these tests may be just that.
    interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(60) == 0
            finally:
                process.kill()


@covers(SUCCESS, "inspect")
@covers(JSON, "inspect")
@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize("words", [["--no-browser"], ["--json"]])
def test_inspect_serves_a_page_until_it_is_interrupted(home: Path, words: list[str]) -> None:
    pytest.importorskip("nextmem_agents.inspector", reason="the inspector is not installed")
    with inspecting(home, *words) as printed:
        line = printed.readline()
        url = (
            json.loads(line)["url"] if words == ["--json"] else re.findall(r"http://127\.0\.0\.1\S+", line)[0]
        )
        assert httpx.get(url, follow_redirects=True).status_code == 200
