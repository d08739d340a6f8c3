"""A Chroma server of the pip package on a free port of this machine, for tests and the torture."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

STARTS_WITHIN = 60.0


class ChromaServer:
    """``chroma run`` over a folder; killed and started again at will, always at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = Path(sys.executable).with_name("chroma")
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    command,
                    "run",
                    "--path",
                    self.folder / "data",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(self.port),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/api/v2/heartbeat", timeout=1.0).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.02)
        log_text = (self.folder / "server.log").read_text(errors="replace")
        self.kill()
        raise RuntimeError(f"the Chroma server did not start:\n{log_text[-2000:]}")

    def kill(self) -> None:
        """``kill -9``."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> ChromaServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
