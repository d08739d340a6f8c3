"""Text files, plain or compressed."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import TextIO, cast


def open_text(path: Path) -> TextIO:
    """Open a UTF-8 file for reading, decompressed where it ends in ``.xz``.

    Raises:
        OSError: it cannot be opened. Reading a damaged ``.xz`` raises ``lzma.LZMAError``.
    """
    if path.suffix == ".xz":
        return cast(TextIO, lzma.open(path, "rt", encoding="utf-8"))
    return path.open(encoding="utf-8")
