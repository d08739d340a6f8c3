"""``Scope``: everything one user or tenant remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nextmem_agents.asynchronous import async_twin
from nextmem_agents.observability import observed
from nextmem_agents.scope.decoded import decoded_texts
from nextmem_agents.scope.recalling import Recalling
from nextmem_agents.scope.remembering import Remembering
from nextmem_agents.scope.transfer import as_file, export_scope, import_scope
from nextmem_agents.store.records import Receipt, Where


class Scope(Remembering, Recalling):
    """Everything one user or tenant remembers; made by :meth:`NextMem.scope`.

    Reads and writes of one scope never see another's. Every method has an async twin with an ``a`` before its name.
    What has expired is never returned; what was replaced is returned by :meth:`history` and by reads ``as_of`` a
    time when it held.
    """

    @observed("forget", items=lambda forgotten, *_, **__: forgotten)
    def forget(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> int:
        """Forget memories with all their versions, by ids or by filter; they leave every read path at once.

        Returns:
            How many memories were forgotten, counted from the records.

        Raises:
            MemoryNotFound: an id is unknown; then nothing is forgotten.
            InvalidArgument: neither or both of ``ids`` and ``where`` are given, or ``where`` is empty.
        """
        try:
            return self._store.forget(self.name, ids, where)
        finally:
            decoded_texts(self._store).drop(self.name)

    @observed("clear", items=lambda forgotten, *_, **__: forgotten)
    def clear(self) -> int:
        """Forget everything in this scope, and in no other; returns how many memories that was."""
        try:
            return self._store.clear(self.name)
        finally:
            decoded_texts(self._store).drop(self.name)

    @observed("erase", items=lambda receipt, *_, **__: receipt.memories)
    def erase(self) -> Receipt:
        """Forget everything in this scope and remove its bytes, and its key if it is encrypted.

        Where the files are this process's own, each is read to its end to prove that nothing is left; the receipt
        says what was proven and what cannot be. An erasure that is interrupted is finished by the next opening.

        Raises:
            StoreError: something is left, or another process holds the files; it says what to do.
        """
        keys = self._keys
        try:
            if keys is None:
                return self._store.erase(self.name)
            erased: list[bool] = []
            with keys.changing():
                keys.begin_erasure(self.name)
                try:
                    receipt = self._store.erase(self.name, lambda: erased.append(keys.erase(self.name)))
                except Exception:
                    keys.finish_erasures(self._store.scopes)
                    raise
            return replace(receipt, key_erased=any(erased))
        finally:
            decoded_texts(self._store).drop(self.name)

    def export(self, path: str | Path) -> int:
        """Write the scope with its history to a file (JSON lines, checksummed); returns how many versions.

        The file is readable by whoever has it, an encrypted scope's too. One that is there already is replaced.

        Raises:
            DataError: the file cannot be written.
            InvalidArgument: ``path`` names no file.
            PayloadError: a memory is damaged; :meth:`NextMem.verify` lists such.
        """
        return export_scope(self._store, self._vault(), self.codec, as_file(path), self._embedder)

    def import_(self, path: str | Path, *, skip_existing: bool = False) -> int:
        """Add what :meth:`export` wrote, from this or another scope, all or nothing; returns how many memories.

        What comes from or goes to an encrypted scope is decoded, which takes longer: words and repeats are found by it.

        Raises:
            CodecMismatch: another codec wrote it.
            DataError: the file is missing, cut off or altered; nothing was imported.
            InvalidArgument: an id is there already, and ``skip_existing`` is False; or ``path`` names no file.
            NewerFormat: a newer version wrote it.
        """
        return import_scope(
            self._store,
            self.name,
            self._sealing,
            self.codec,
            as_file(path),
            encrypted=self.encrypted,
            skip_existing=skip_existing,
            embedder=self._embedder,
        )

    aforget = async_twin(forget)
    aclear = async_twin(clear)
    aerase = async_twin(erase)
    aexport = async_twin(export)
    aimport_ = async_twin(import_)
