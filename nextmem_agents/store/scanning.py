"""Searching files for many byte strings at once, to prove that none is there.

As a program, ``python -m …`` with files and needles as JSON on its standard input, it does so in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nextmem_agents.errors import StoreError
from nextmem_agents.store.apart import run_apart

BLOCK = 2**24


def find_bytes(files: Iterable[Path], needles: Iterable[bytes]) -> set[bytes]:
    """Those of the needles (each of 8 bytes or more) that stand anywhere in any of the files.

    Every window of 8 bytes of every file is compared with the beginnings of all needles at once.

    Raises:
        StoreError: a file cannot be read.
    """
    wanted = sorted(set(needles))
    if not wanted:
        return set()
    longest = max(map(len, wanted))
    by_head: dict[int, list[bytes]] = {}
    for needle in wanted:
        by_head.setdefault(int.from_bytes(needle[:8], "little"), []).append(needle)
    heads = np.array(sorted(by_head), dtype=np.uint64)
    found: set[bytes] = set()
    for file in files:
        try:
            with file.open("rb") as opened:
                tail = b""
                while block := opened.read(BLOCK):
                    data = tail + block
                    found |= _find(data, heads, by_head)
                    tail = data[-(longest - 1) :]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"{file} cannot be read to prove what is in it: {error}") from error
    return found


def find_bytes_apart(files: Iterable[Path], needles: Iterable[bytes]) -> set[bytes]:
    """:func:`find_bytes` by a process of its own.

    A process that closes a file loses the locks by which SQLite holds it open (POSIX): another one that opens it then
    takes it for its own, and removes what is not yet written into it.
    """
    given = {"files": [str(file) for file in files], "needles": [needle.hex() for needle in needles]}
    found: list[str] = json.loads(run_apart(__name__, given=json.dumps(given)))
    return {bytes.fromhex(needle) for needle in found}


def _find(data: bytes, heads: np.ndarray, by_head: dict[int, list[bytes]]) -> set[bytes]:
    found: set[bytes] = set()
    for shift in range(min(8, max(0, len(data) - 7))):
        windows = np.frombuffer(data, dtype="<u8", count=(len(data) - shift) // 8, offset=shift)
        places = np.searchsorted(heads, windows)
        places[places == len(heads)] = 0
        for i in np.flatnonzero(heads[places] == windows):
            start = shift + 8 * int(i)
            found.update(needle for needle in by_head[int(windows[i])] if data.startswith(needle, start))
    return found


def main() -> int:
    """Run with what standard input gives; an error is one line on standard error."""
    given = json.load(sys.stdin)
    try:
        found = find_bytes(map(Path, given["files"]), map(bytes.fromhex, given["needles"]))
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps([needle.hex() for needle in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
