"""Export and import of a scope: one JSON object a line, all versions, with a checksum at the end.

=========  ====================================================================================================
line       content
=========  ====================================================================================================
first      ``format`` ("nextmem-export"), ``version`` (1), ``scope``, ``codec``, ``fingerprint``, ``dim``,
           ``embedder`` (its name, where the vectors are not the codec's), ``exported_at``
others     a version of a memory, oldest first: the fields of ``NewRecord``; times in ISO 8601, ``payloads`` as
           base64 (payload format 1, bound to the scope, id and chunk), ``vectors`` as base64 of float32, little-endian
last       ``versions`` (how many there are) and ``blake2b`` (256 bits, of all bytes before this line)
=========  ====================================================================================================
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from nextmem_agents.codec.exact import DecompressedText, decompress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import (
    CodecMismatch,
    DataError,
    InvalidArgument,
    NewerFormat,
    NextMemError,
    PayloadError,
)
from nextmem_agents.quantization import Payload
from nextmem_agents.recall.embedders import Embedder
from nextmem_agents.scope.vault import Vault
from nextmem_agents.scope.writing import chunk_vectors, words_of
from nextmem_agents.store.checks import time_to_text
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.records import NewRecord, Store

FORMAT = "nextmem-export"
VERSION = 1
_TIMES = ("occurred_at", "expires_at", "valid_from", "valid_to", "created_at", "updated_at")
_LONGEST_HEADER = 1 << 16  # bytes
_APART = ("payloads", "vectors", "fold", "former")


def as_file(path: object) -> Path:
    """The file that a caller names.

    Raises:
        InvalidArgument: it is no path, or no file can have that name.
    """
    try:
        found = Path(path)  # type: ignore[arg-type]
        if not found.name or b"\0" in os.fsencode(found):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"an export is a file such as 'ann.jsonl', not {path!r:.80}") from error
    return found


def export_scope(
    store: Store, vault: Vault, codec: LatentCodec, path: Path, embedder: Embedder | None = None
) -> int:
    """Write all versions of a scope to a file, which appears only when it is whole; returns how many.

    A file that is there already is replaced, where a link points to too. A pipe or device is written into.

    Raises:
        DataError: the file cannot be written.
        PayloadError: a memory is damaged; ``verify`` lists such.
    """
    replaces = path.is_file() or not path.exists()
    if replaces:
        path = Path(os.path.realpath(path))
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part") if replaces else path
    checksum = blake2b(digest_size=32)
    n = 0
    try:
        with fresh.open("xb" if replaces else "wb") as opened:

            def write(value: dict[str, Any]) -> None:
                line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
                checksum.update(line)
                opened.write(line)

            write(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "scope": vault.scope,
                    "codec": codec.config.name,
                    "fingerprint": codec.fingerprint,
                    "dim": codec.index_size if embedder is None else embedder.size,
                    **({} if embedder is None else {"embedder": embedder.name}),
                    "exported_at": time_to_text(utc_now()),
                }
            )
            for record in store.dump(vault.scope):
                write(_to_json(_readable(record, vault, codec)))
                n += 1
            write({"versions": n, "blake2b": checksum.hexdigest()})
            opened.flush()
            if replaces:
                os.fsync(opened.fileno())
        if replaces:
            fresh.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    finally:
        if replaces:
            fresh.unlink(missing_ok=True)
    return n


def import_scope(
    store: Store,
    scope: str,
    sealing: Callable[[], AbstractContextManager[Vault]],
    codec: LatentCodec,
    path: Path,
    *,
    encrypted: bool,
    skip_existing: bool,
    embedder: Embedder | None = None,
) -> int:
    """Read a file that :func:`export_scope` wrote into a scope, all or nothing; returns how many memories.

    Vectors of another embedder than this memory's are made anew, of the exact texts. So are the terms and digests of
    what comes from or goes to an encrypted scope.

    Args:
        sealing: gives what to write with.
        encrypted: whether the scope is.

    Raises:
        CodecMismatch: another codec wrote it.
        DataError: the file is missing, cut off, altered, or no export.
        InvalidArgument: a memory of the same id is there already, unless they are to be skipped.
        NewerFormat: a newer version wrote it.
    """
    header, versions = _read(path)
    if header["fingerprint"] != codec.fingerprint:
        raise CodecMismatch(
            f"{path} was written with the codec {header['codec']!r} (fingerprint {header['fingerprint']}), and this "
            f"memory has {codec.config.name!r} (fingerprint {codec.fingerprint}); import it with its codec and migrate"
        )
    now = utc_now()
    records = [record for record in versions if record.expires_at is None or record.expires_at > now]
    ids = list(dict.fromkeys(record.id for record in records))
    there = {record.id for record in store.dump(scope)}
    clash = [id_ for id_ in ids if id_ in there]
    if clash and not skip_existing:
        raise InvalidArgument(
            f"{len(clash)} memories of {path} are in scope {scope!r} already, {clash[0]!r} the first. Nothing "
            "was imported. Import into another scope, or pass skip_existing=True to leave those as they are"
        )
    # What is there already is another memory than the file's of the same id.
    chosen = [
        replace(record, supersedes=None) if record.supersedes in there else record
        for record in records
        if record.id not in there
    ]
    try:
        source = Vault(str(header["scope"]), None)
        if header.get("embedder") != (None if embedder is None else embedder.name):
            chosen = _embedded(chosen, source, codec, embedder, path)
        payloads = [_opened(record, source, codec) for record in chosen]
    except PayloadError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    # A digest stands for a text under the scope's key: it comes from the text where the key is another.
    unknown = [i for i, record in enumerate(chosen) if encrypted or record.digest is None]
    texts = dict(zip(unknown, decompress(codec, [payloads[i] for i in unknown]), strict=True))
    with sealing() as vault:
        store.put(scope, [_sealed(r, payloads[i], vault, texts.get(i)) for i, r in enumerate(chosen)])
    return len({record.id for record in chosen})


def _embedded(
    records: Sequence[NewRecord], source: Vault, codec: LatentCodec, embedder: Embedder | None, path: Path
) -> list[NewRecord]:
    """The records with this memory's index vectors in the place of theirs."""
    payloads = [_opened(record, source, codec) for record in records]
    flat = decompress(codec, [[payload] for chunks in payloads for payload in chunks])
    texts = iter(flat)
    chunks = [[next(texts) for _ in each] for each in payloads]
    for record, each in zip(records, chunks, strict=True):
        if not all(text.exact for text in each):
            raise DataError(
                f"memory {record.id!r} of {path} does not come back exactly and cannot be embedded anew; import it "
                "into a memory with the embedder that wrote it. Nothing was imported"
            )
    vectors = chunk_vectors(codec, embedder, [[text.text for text in each] for each in chunks])
    return [replace(record, vectors=indexed) for record, indexed in zip(records, vectors, strict=True)]


def _opened(record: NewRecord, vault: Vault, codec: LatentCodec) -> list[Payload]:
    try:
        return [vault.open(data, record.id, n, codec) for n, data in enumerate(record.payloads)]
    except PayloadError as error:
        raise PayloadError(f"memory {record.id!r} in scope {vault.scope!r} is damaged: {error}") from error


def _readable(record: NewRecord, vault: Vault, codec: LatentCodec) -> NewRecord:
    """The record as a file keeps it: not encrypted, and without the digest that only the scope's key can tell."""
    plain = Vault(vault.scope, None)
    opened = _opened(record, vault, codec)
    payloads = [plain.seal(payload, record.id, n) for n, payload in enumerate(opened)]
    return replace(record, payloads=payloads, digest=None if vault.encrypted else record.digest)


def _sealed(
    record: NewRecord, payloads: Sequence[Payload], vault: Vault, text: DecompressedText | None
) -> NewRecord:
    """The record as a scope keeps it; its terms and digest are those of its text, if that was decoded and is exact."""
    words, digest = record.terms, record.digest
    if text is not None and text.exact:
        words, digest = words_of(text.text, record.role), vault.digest(text.text, record.role)
    elif vault.encrypted:
        digest = None
    return replace(
        record,
        payloads=[vault.seal(payload, record.id, n) for n, payload in enumerate(payloads)],
        terms={} if vault.encrypted else words,
        digest=digest,
    )


def _to_json(record: NewRecord) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in _APART or value is None:
            continue
        values[field.name] = time_to_text(value) if field.name in _TIMES else value
    values["payloads"] = [base64.b64encode(payload).decode() for payload in record.payloads]
    values["vectors"] = base64.b64encode(np.ascontiguousarray(record.vectors, dtype="<f4").tobytes()).decode()
    return values


def check_export(path: Path) -> None:
    """Look at the beginning of an exported file.

    Raises:
        DataError: it is none, or cannot be read.
        NewerFormat: a newer version wrote it.
    """
    with _reading(path), path.open("rb") as file:
        _header(path, file.readline(_LONGEST_HEADER))


def _header(path: Path, line: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(line)
    if header.get("format") != FORMAT or not isinstance(header.get("version"), int):
        raise DataError(f"{path} is no export of nextmem-agents")
    if header["version"] > VERSION:
        raise NewerFormat(f"{path} has export format {header['version']}; upgrade nextmem-agents")
    for name in ("fingerprint", "codec", "scope"):
        header[name].encode()
    return header


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong with a file that is no export, as an error that names it."""
    try:
        yield
    except NextMemError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no export of nextmem-agents, or damaged: {error!r}") from error


def _read(path: Path) -> tuple[dict[str, Any], list[NewRecord]]:
    with _reading(path):
        data = path.read_bytes()
        lines = data.splitlines(keepends=True)
        header, last = _header(path, lines[0]), json.loads(lines[-1])
        body = data[: -len(lines[-1])]
        if (
            last.get("blake2b") != blake2b(body, digest_size=32).hexdigest()
            or last["versions"] != len(lines) - 2
        ):
            raise DataError(f"{path} is cut off or was altered: its checksum is wrong. Nothing was imported")
        return header, [*_records(lines[1:-1], int(header["dim"]))]


def _records(lines: Sequence[bytes], dim: int) -> Iterator[NewRecord]:
    for line in lines:
        values = json.loads(line)
        for name in _TIMES:
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
                if values[name].tzinfo is None:
                    raise ValueError(f"{name} has no time zone")
        values["payloads"] = [base64.b64decode(payload, validate=True) for payload in values["payloads"]]
        vectors = base64.b64decode(values.pop("vectors"), validate=True)
        values["id"].encode()
        for name in ("fold", "former"):  # of a write, not of a memory
            values.pop(name, None)
        yield NewRecord(vectors=np.frombuffer(vectors, dtype="<f4").reshape(-1, dim), **values)
