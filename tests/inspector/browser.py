"""A headless Chromium for tests and screenshots, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


def chromium() -> str | None:
    """The browser's program, from ``NEXTMEM_CHROMIUM`` or the path; None if there is none."""
    named = os.environ.get("NEXTMEM_CHROMIUM")
    found = (
        [named]
        if named
        else [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    )
    return next((path for path in found if path), None)


@contextmanager
def launch(playwright: Any, *more: str) -> Iterator[Any]:
    """The browser, started and closed again."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=[*ARGUMENTS, *more], timeout=60_000)
    try:
        yield browser
    finally:
        browser.close()
