"""The files that Chroma's HNSW graph lies in, and what in them is no data.

hnswlib writes its arrays at their full capacity, whether the spare part was ever set or not: what the process had in
that memory before (a vector that was erased, or a text) goes to disk with it. Measured: 27 of 180 rebuilt indices
held a forgotten vector. The spare part is never read as data, so it can be overwritten with zeros.
"""

from __future__ import annotations

import struct
from pathlib import Path

from nextmem_agents.errors import StoreError

# hnswlib's header as Chroma writes it: format version, offset of level 0, capacity, elements, bytes of an element.
_HEADER = struct.Struct("<iQQQQ")
_LENGTH_BYTES = 4
_BLOCK = 2**20


def zero_spare(folder: Path) -> int:
    """Overwrite the spare part of every graph under ``folder`` with zeros; returns the bytes that were not zero.

    Raises:
        StoreError: a file cannot be read or written.
    """
    try:
        return sum(_zero_graph(header) for header in folder.rglob("header.bin"))
    except OSError as error:
        raise StoreError(f"the spare room of the index {folder} cannot be cleared: {error}") from error


def _zero_graph(header: Path) -> int:
    head = header.read_bytes()[: _HEADER.size]
    if len(head) < _HEADER.size:
        return 0
    version, _, _, n_elements, element_bytes = _HEADER.unpack(head)
    if version != 1:
        return 0
    return _zero_from(header.with_name("data_level0.bin"), n_elements * element_bytes) + _zero_from(
        header.with_name("length.bin"), n_elements * _LENGTH_BYTES
    )


def _zero_from(file: Path, start: int) -> int:
    if not file.exists() or file.stat().st_size <= start:
        return 0
    overwritten = 0
    with file.open("r+b") as opened:
        position = start
        while True:
            opened.seek(position)
            block = opened.read(_BLOCK)
            if not block:
                return overwritten
            spare = len(block) - block.count(0)
            if spare:
                opened.seek(position)
                opened.write(bytes(len(block)))
                overwritten += spare
            position += len(block)
