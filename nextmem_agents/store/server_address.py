"""The address of a Chroma server, and whether one answers there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard
from urllib.parse import urlsplit

from nextmem_agents.errors import InvalidArgument, StoreError

TIMEOUT = 30.0
"""Seconds a request may take before it fails."""


def is_address(location: object) -> TypeGuard[str]:
    """Whether a store's location is a server's address, and not a folder.

    Examples:
        >>> is_address("http://chroma:8000"), is_address("notes")
        (True, False)
    """
    return isinstance(location, str) and location.startswith(("http://", "https://"))


def check_timeout(timeout: object) -> float:
    """Return a number of seconds above 0, or raise ``InvalidArgument``."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise InvalidArgument(f"timeout must be a number of seconds above 0, not {timeout!r:.80}")
    return float(timeout)


def parse_address(url: str) -> tuple[str, int, bool]:
    """Host, port and whether it is https; ``HttpClient`` keeps a path in the host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"{url!r} is no address of a server: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise InvalidArgument(f"{url!r} is no address of a server; write http://host:port")
    if parts.username or parts.query or parts.fragment:
        raise InvalidArgument(
            f"the address {host!r} must have no user, query or fragment; credentials go into headers="
        )
    secure = parts.scheme == "https"
    if parts.path.strip("/"):
        raise InvalidArgument(f"the address of a Chroma server has no path, this one {parts.path!r}")
    return host, port or (443 if secure else 8000), secure


def probe(
    url: str, host: str, port: int, secure: bool, headers: Mapping[str, str] | None, timeout: float
) -> None:
    """Ask for the version first: Chroma's client waits for ever for a server that does not answer."""
    import httpx

    shown = f"[{host}]" if ":" in host else host
    address = f"{'https' if secure else 'http'}://{shown}:{port}/api/v2/version"
    try:
        answer = httpx.get(address, headers=dict(headers or {}), timeout=timeout)
    except httpx.HTTPError as error:
        raise StoreError(
            f"no Chroma server answers at {url} ({type(error).__name__}: {error}); start one with "
            f"`chroma run --path DIR --port {port}`, or correct the address"
        ) from error
    if answer.status_code in {401, 403}:
        raise StoreError(
            f"the server at {url} wants credentials ({answer.status_code}); pass them with "
            "headers={'Authorization': 'Bearer …'}"
        )
    if answer.status_code != 200 or not answer.text.strip().strip('"')[:1].isdigit():
        raise StoreError(
            f"the server at {url} is no Chroma server of version 1.0 or later: it answers {answer.status_code} "
            "to /api/v2/version"
        )
