"""Serving the inspector on this machine's own address, and to nobody else."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nextmem_agents.errors import MissingExtra, StoreError
from nextmem_agents.memory import NextMem

if TYPE_CHECKING:
    import uvicorn

HOST = "127.0.0.1"
_STARTS_WITHIN = 30.0


def serve(memory: NextMem, *, port: int = 0, open_browser: bool = True) -> None:
    """Serve the inspector until Ctrl-C, and print its address, which holds the token of this run.

    Args:
        memory: what to look at; it stays open.
        port: where; 0 for any free one.
        open_browser: open the address in the user's browser.

    Raises:
        MissingExtra: starlette or uvicorn is not installed.
        StoreError: the port is taken.
    """
    from rich.console import Console

    server, listener, url = _prepare(memory, port)
    Console(soft_wrap=True, highlight=False).print(
        f"The inspector is at {url}\nWhoever has this address can read and erase. Ctrl-C ends it.",
        markup=False,
    )
    if open_browser:
        # Once the server answers; the browser waits for nobody.
        threading.Timer(0.5, webbrowser.open, [url]).start()
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


@contextlib.contextmanager
def running(memory: NextMem, *, port: int = 0) -> Iterator[str]:
    """Serve the inspector in a thread of this process while the context lasts; gives its address with the token.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as memory, running(memory) as url:  # doctest: +SKIP
        ...     print(url)
        http://127.0.0.1:43741/#token=…
    """
    server, listener, url = _prepare(memory, port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + _STARTS_WITHIN
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        if not server.started:
            raise StoreError(f"the inspector did not start at {HOST}:{port}")
        yield url
    finally:
        server.should_exit = True
        thread.join(_STARTS_WITHIN)
        listener.close()


def _prepare(memory: NextMem, port: int) -> tuple[uvicorn.Server, socket.socket, str]:
    """A server that is ready to run, its socket, and the page's address."""
    try:
        import uvicorn

        from nextmem_agents.inspector.application import application
    except ImportError as error:
        raise MissingExtra(
            'the inspector needs starlette and uvicorn: pip install "nextmem-agents[inspect]"'
        ) from error
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()  # who reads the address may connect at once
    except (OSError, OverflowError) as error:
        listener.close()
        raise StoreError(f"{HOST}:{port} is not to be had: {error}; choose another port") from error
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(32)
    config = uvicorn.Config(
        application(memory, token, port),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config), listener, f"http://{HOST}:{port}/#token={token}"
