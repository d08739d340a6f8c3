"""Documents of a corpus, read one after another from files: text, Markdown, JSON lines, plain or compressed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from nextmem_agents.codec.tokens import check_text
from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.store.checks import check_id, check_metadata, check_optional
from nextmem_agents.store.records import Scalar

Split = Literal["paragraphs", "lines", "file"]

TEXT = (".txt", ".md")
JSON_LINES = (".jsonl", ".ndjson")
_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


@dataclass(frozen=True)
class Source:
    """One file of a corpus.

    Attributes:
        path: the file.
        name: what stands for it in ids and provenance: its path within the folder that was given, or its file name,
            so that a corpus may be moved as a whole.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Document:
    """One text to remember.

    Attributes:
        text: the text.
        id: the file's own id, or one derived from the file's name, the position in it and the text, so that reading
            the same corpus again gives the same ids.
        derived_from: file and position.
        session: groups the documents of one text file; JSON lines name their own.
        role: who said it.
        occurred_at: when it happened.
        metadata: its own fields.
    """

    text: str
    id: str
    derived_from: str
    session: str | None = None
    role: str | None = None
    occurred_at: datetime | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def sources(paths: Iterable[str | Path]) -> list[Source]:
    """The files of a corpus: those given, and all readable ones in the folders given, sorted by name.

    Raises:
        DataError: a path is not there or of a kind that is not read, or there is no file at all.
    """
    found: list[Source] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) is not None)
            found += [Source(file, file.relative_to(path).as_posix()) for file in files]
        elif not path.is_file():
            raise DataError(f"there is no file or folder {path}")
        elif _kind(path) is None:
            raise DataError(f"{path}: give {', '.join(TEXT + JSON_LINES)}, also with {', '.join(_OPENERS)}")
        else:
            found.append(Source(path, path.name))
    if not found:
        raise DataError(f"no file that ends in {', '.join(TEXT + JSON_LINES)} was found")
    return found


def read_documents(
    files: Iterable[Source], *, split: Split = "paragraphs", text_field: str = "text"
) -> Iterator[Document]:
    """The documents of files, in order, as they are read: memory does not grow with the corpus.

    Args:
        files: what :func:`sources` found.
        split: what is one document of a text file: the text between empty lines, a line, or the whole file.
        text_field: the field of a JSON line that holds the text. ``id``, ``session``, ``role``, ``occurred_at`` (ISO
            8601) and ``metadata`` are read where they are there; a line may also be just a string.

    Raises:
        DataError: a file cannot be read, or a line is not as described; with its number.
    """
    for source in files:
        try:
            with _opened(source.path) as lines:
                if _kind(source.path) in JSON_LINES:
                    yield from _json_lines(source, lines, text_field)
                else:
                    yield from _texts(source, lines, split)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise DataError(f"{source.path} cannot be read: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{source.path} is no UTF-8 text: {error}") from error


def batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """The documents in lists of ``size``, the last one shorter."""
    iterator = iter(documents)
    while batch := [*islice(iterator, size)]:
        yield batch


def _kind(path: Path) -> str | None:
    inner = Path(path.stem) if path.suffix in _OPENERS else path
    return inner.suffix if inner.suffix in TEXT + JSON_LINES else None


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    opener: Any = _OPENERS.get(path.suffix, open)
    # No newline is changed: what is remembered is what the file holds.
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        yield file


def _texts(source: Source, lines: Iterable[str], split: Split) -> Iterator[Document]:
    if split == "file":
        parts: Iterable[str] = ["".join(lines)]
    elif split == "lines":
        parts = (line.rstrip("\r\n") for line in lines)
    else:
        parts = _paragraphs(lines)
    position = 0
    for text in parts:
        if text.strip():
            position += 1
            where = f"{source.name}#{position}"
            _check(text, f"{source.path}, text {position}")
            yield Document(text, _derived_id(where, text), where, session=source.name)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "".join(block).rstrip("\r\n")
            block = []
    yield "".join(block).rstrip("\r\n")


def _json_lines(source: Source, lines: Iterable[str], text_field: str) -> Iterator[Document]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{source.path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: no JSON: {error}") from error
        fields = {text_field: value} if isinstance(value, str) else value
        text = fields.get(text_field) if isinstance(fields, dict) else None
        if not isinstance(text, str):
            raise DataError(
                f"{where}: neither a string nor an object with a text in {text_field!r} (--text-field)"
            )
        if text.strip():
            yield _document(fields, text, f"{source.name}#{number}", where)


def _document(fields: Mapping[str, Any], text: str, position: str, where: str) -> Document:
    _check(text, where)
    given = fields.get("id")
    metadata = fields.get("metadata") or {}
    if given is not None and not isinstance(given, str | int):
        raise DataError(f"{where}: an id is a string or a number, not {given!r:.80}")
    for name in ("session", "role", "occurred_at"):
        if not isinstance(fields.get(name), str | None):
            raise DataError(f"{where}: {name} is a string, not {fields[name]!r:.80}")
    if not isinstance(metadata, dict):
        raise DataError(f"{where}: metadata is an object of strings, numbers and booleans")
    try:
        check_metadata(metadata)
        check_id("id" if given is None else str(given))
        for name in ("session", "role"):
            check_optional(name, fields.get(name))
    except InvalidArgument as error:
        raise DataError(f"{where}: {error}") from error
    try:
        when = None if fields.get("occurred_at") is None else datetime.fromisoformat(fields["occurred_at"])
    except ValueError as error:
        raise DataError(f"{where}: occurred_at is a time in ISO 8601: {error}") from error
    return Document(
        text=text,
        id=_derived_id(position, text) if given is None else str(given),
        derived_from=position,
        session=fields.get("session"),
        role=fields.get("role"),
        occurred_at=when,
        metadata=metadata,
    )


def _check(text: str, where: str) -> None:
    try:
        check_text(text)
    except InvalidArgument as error:
        raise DataError(f"{where}: {error}") from error


def _derived_id(position: str, text: str) -> str:
    return blake2b(f"{position}\0{text}".encode(), digest_size=16, person=b"nextmem corpus").hexdigest()


def as_rows(documents: Sequence[Document]) -> list[str]:
    """Documents as JSON strings, to travel between machines."""
    return [
        json.dumps({**vars(d), "occurred_at": d.occurred_at and d.occurred_at.isoformat()}) for d in documents
    ]


def from_rows(rows: Iterable[str]) -> list[Document]:
    """What :func:`as_rows` made, as documents again."""
    found = []
    for row in rows:
        fields = json.loads(row)
        when = fields.pop("occurred_at")
        found.append(Document(**fields, occurred_at=when and datetime.fromisoformat(when)))
    return found
