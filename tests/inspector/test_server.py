"""The inspector listens on this machine only, prints where, and ends cleanly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pytest

from nextmem_agents import NextMem, StoreError
from nextmem_agents.inspector import running

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

PROGRAM = """
from nextmem_agents.inspector import serve
serve(None, open_browser=False)  # of the memory nothing is asked for
print("ended", flush=True)
"""


def test_it_answers_with_its_token_and_on_this_machine_only(filled: NextMem) -> None:
    with running(filled) as url:
        parts = urlsplit(url)
        assert parts.hostname == "127.0.0.1"
        token = parts.fragment.removeprefix("token=")
        assert len(token) >= 40
        base = f"http://{parts.netloc}"
        answer = httpx.get(f"{base}/api/store", headers={"authorization": f"Bearer {token}"})
        assert answer.json()["scopes"][0]["name"] == "alice"
        assert "server" not in answer.headers
        assert httpx.get(f"{base}/api/store").status_code == 401
    with socket.socket() as probe:
        assert probe.connect_ex((parts.hostname, parts.port)) != 0


def test_each_run_has_a_token_of_its_own(filled: NextMem) -> None:
    with running(filled) as one, running(filled) as other:
        assert urlsplit(one).fragment != urlsplit(other).fragment


def test_a_port_that_is_taken_is_a_clear_error(filled: NextMem) -> None:
    with (
        running(filled) as url,
        pytest.raises(StoreError, match="choose another port"),
        running(filled, port=urlsplit(url).port or 0),
    ):
        pass


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "40"},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split()[-1]
        assert url.startswith("http://127.0.0.1:"), line
        assert httpx.get(url, timeout=30).status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert "ended" in out
    assert (process.returncode, err) == (0, "")
