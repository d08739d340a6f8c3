"""Where an encoded corpus goes: into a scope of a store, or into a file that ``import`` reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from filelock import FileLock, Timeout

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.corpus.documents import Document
from nextmem_agents.corpus.encoding import Missing, store_of, vault_of
from nextmem_agents.errors import DataError, StoreError
from nextmem_agents.scope import Scope
from nextmem_agents.scope.transfer import FORMAT, VERSION, _to_json
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store.checks import time_to_text
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.records import NewRecord


class Destination(Protocol):
    """Takes records in the order of their documents, and knows which it has."""

    def missing(self, documents: Sequence[Document]) -> list[Document]:
        """Those that are still to be encoded."""

    def write(self, records: Sequence[NewRecord]) -> None:
        """Keep these; durable when it returns."""

    def finish(self) -> None:
        """All documents were read."""

    def close(self) -> None:
        """Let go, finished or not."""


class StoreDestination:
    """A scope of a store, each batch in one transaction.

    Attributes:
        vault: what the records have to be sealed with.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._missing = Missing(scope)
        self.vault = vault_of(scope)

    def missing(self, documents: Sequence[Document]) -> list[Document]:
        """Those that the scope does not hold with the same text."""
        return self._missing.of(documents)

    def write(self, records: Sequence[NewRecord]) -> None:
        """Put them.

        Raises:
            StoreError: the scope's key is another by now; nothing was written.
        """
        with self._scope._sealing() as vault:
            if not vault.opens(self.vault):
                raise StoreError(
                    f"the scope {self._scope.name!r} was erased, or encrypted, while the corpus was encoded; "
                    "run it again"
                )
            store_of(self._scope).put(self._scope.name, records)

    def finish(self) -> None:
        """Nothing is left to do: every batch was durable."""

    def close(self) -> None:
        """The store stays open; it is its owner's."""


class FileDestination:
    """A file in the export's format, which appears when it is whole; until then it is ``NAME.part``.

    A run that was interrupted leaves the part; the next one reads it along with the corpus and goes on where it ends.

    Args:
        path: the file.
        codec: whose payloads it will hold.
        scope: the name of the scope that they are bound to; ``import`` binds them to its own.

    Raises:
        DataError: the file is there already, cannot be written, or the part is of another codec or scope.
    """

    def __init__(self, path: Path, codec: LatentCodec, scope: str) -> None:
        if path.exists():
            raise DataError(f"{path} is there already; choose another file, or delete it")
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._checksum = blake2b(digest_size=32)
        self._versions = 0
        header = {
            "format": FORMAT,
            "version": VERSION,
            "scope": scope,
            "codec": codec.config.name,
            "fingerprint": codec.fingerprint,
            "dim": codec.index_size,
        }
        self._vault = Vault(scope, None)
        self._lock = FileLock(self._part.with_name(self._part.name + ".lock"), thread_local=False)
        try:
            self._lock.acquire(timeout=0)
            self._file: BinaryIO = self._part.open("r+b" if self._part.exists() else "w+b")
        except Timeout as error:
            raise DataError(f"{self._part} is being written by another process; wait for it") from error
        except OSError as error:
            self._unlock()
            raise DataError(f"{self._part} cannot be written: {error}") from error
        try:
            self._there: Iterator[tuple[str, object]] | None = self._read_part(header)
        except BaseException:
            self.close()
            raise

    def missing(self, documents: Sequence[Document]) -> list[Document]:
        """Those after the end of what the part holds, which has to begin as the corpus does."""
        fresh = []
        for document in documents:
            found = None if self._there is None else next(self._there, None)
            if found is None:
                self._there = None
                fresh.append(document)
            elif found != (document.id, self._vault.digest(document.text, document.role)):
                has = f"{found[0]!r} where" if found[0] != document.id else "another text where"
                raise DataError(
                    f"{self._part} was begun from another corpus, or the corpus has changed: it has {has} "
                    f"there is now {document.id!r} ({document.derived_from}); delete it to begin anew"
                )
        return fresh

    def write(self, records: Sequence[NewRecord]) -> None:
        """Append them."""
        self._file.seek(0, os.SEEK_END)
        for record in records:
            self._append(_to_json(record))
            self._versions += 1
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write the checksum and give the file its name."""
        if self._there is not None and next(self._there, None) is not None:
            raise DataError(f"{self._part} holds more than the corpus; delete it to begin anew")
        self._file.seek(0, os.SEEK_END)
        last = {"versions": self._versions, "blake2b": self._checksum.hexdigest()}
        self._file.write(json.dumps(last).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)

    def close(self) -> None:
        """Leave the part as it is, for the next run."""
        self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _append(self, value: dict[str, object]) -> None:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self._checksum.update(line)
        self._file.write(line)

    def _read_part(self, header: dict[str, object]) -> Iterator[tuple[str, object]]:
        """The ids and digests that the part holds; what was cut off while being written is cut away."""
        first = self._file.readline()
        own = json.dumps(header, ensure_ascii=False)[:-1].encode()
        if not first.endswith(b"\n") and (own.startswith(first) or first.startswith(own)):
            self._file.seek(0)
            self._file.truncate()
            self._append({**header, "exported_at": time_to_text(utc_now())})
            return iter(())
        begun = self._line(first)
        if any(begun.get(name) != value for name, value in header.items()):
            raise DataError(f"{self._part} was begun with another codec or scope; delete it to begin anew")
        self._checksum.update(first)
        return self._ids()

    def _ids(self) -> Iterator[tuple[str, object]]:
        whole = self._file.tell()
        for line in iter(self._file.readline, b""):
            if not line.endswith(b"\n") or b'"blake2b"' in line[:400]:
                break
            self._checksum.update(line)
            self._versions += 1
            whole += len(line)
            value = self._line(line)
            yield str(value.get("id")), value.get("digest")
        self._file.seek(whole)
        self._file.truncate()

    def _line(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                return value
        except ValueError:
            pass
        raise DataError(
            f"{self._part} is no file that an interrupted run left, or is damaged; delete it or choose another output"
        )
