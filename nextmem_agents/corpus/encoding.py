"""Documents to records, in whichever process has a codec: what a worker loads once and then does again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.corpus.documents import Document
from nextmem_agents.errors import MemoryNotFound
from nextmem_agents.items import as_items
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope
from nextmem_agents.scope.vault import Vault
from nextmem_agents.scope.writing import EncodedItem, encode_items, holds_any, seal_items
from nextmem_agents.store.records import NewRecord, Store

_IDS = 1_000  # asked for at once


@dataclass(frozen=True)
class Recipe:
    """How texts become records; small, and sent to every worker.

    Attributes:
        codec: a shipped codec's name or a checkpoint folder.
        scope: whose memory it is.
        device: where the codec runs; ``"cuda"`` gives each worker a GPU in turn.
        threads: of each worker on a CPU; None leaves torch's own choice.
        keep_text: as in ``NextMem.open``.
        vault: of an encrypted scope, with its key.
    """

    codec: str
    scope: str
    device: str = "cpu"
    threads: int | None = None
    keep_text: bool | None = None
    vault: Vault | None = field(default=None, repr=False)


def load_codec(recipe: Recipe, worker: int = 0) -> LatentCodec:
    """The codec of one worker, on its device."""
    import torch

    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    return LatentCodec.load(recipe.codec, device=device_of(recipe.device, worker, torch.cuda.device_count()))


def device_of(device: str, worker: int, n_gpus: int) -> str:
    """The device of one worker: of several GPUs, each its own.

    Examples:
        >>> [device_of("cuda", worker, 2) for worker in range(3)], device_of("cpu", 1, 2)
        (['cuda:0', 'cuda:1', 'cuda:0'], 'cpu')
    """
    return f"cuda:{worker % n_gpus}" if device == "cuda" and n_gpus > 1 else device


class Encoder:
    """Documents to records that are ready to be put.

    Args:
        recipe: how.
        worker: its number, from 0.
        codec: one that is loaded already.
    """

    def __init__(self, recipe: Recipe, worker: int = 0, codec: LatentCodec | None = None) -> None:
        self._codec = codec or load_codec(recipe, worker)
        self._vault = recipe.vault or Vault(recipe.scope, None)
        self._keep_text = recipe.keep_text

    def __call__(self, documents: Sequence[Document]) -> list[NewRecord]:
        """One record per document, in order."""
        return seal_items(self.encode(documents), self._vault)

    def encode(self, documents: Sequence[Document]) -> list[EncodedItem]:
        """The same, yet to be sealed."""
        named = fields_of(documents)
        items = as_items([d.text for d in documents], ids=named.pop("id"), agent=None, **named)
        return encode_items(items, self._codec, self._keep_text)


def fields_of(documents: Sequence[Document]) -> dict[str, Any]:
    """All but the texts, as ``Scope.remember`` takes it."""
    return {
        "id": [d.id for d in documents],
        "session": [d.session for d in documents],
        "role": [d.role for d in documents],
        "occurred_at": [d.occurred_at for d in documents],
        "metadata": [d.metadata for d in documents],
        "derived_from": [d.derived_from for d in documents],
    }


@dataclass(frozen=True)
class Done:
    """What became of some documents: written now, or there before with the same text."""

    written: int
    there_before: int


class ServerWriter:
    """Documents to memories on a server: encodes those that are not there, and writes them.

    Args:
        recipe: how.
        url: the server's address.
        settings: further arguments of ``NextMem.open``.
        worker: its number, from 0.
    """

    def __init__(self, recipe: Recipe, url: str, settings: Mapping[str, Any], worker: int = 0) -> None:
        codec = load_codec(recipe, worker)
        self._memory = NextMem.open(url, codec=codec, **settings)
        self._scope = self._memory.scope(recipe.scope)
        self._missing = Missing(self._scope)
        self._encoder = Encoder(recipe, worker, codec)

    def __call__(self, documents: Sequence[Document]) -> Done:
        """Write what is not there yet."""
        fresh = self._missing.of(documents)
        if fresh:
            encoded = self._encoder.encode(fresh)
            with self._scope._sealing() as vault:
                store_of(self._scope).put(self._scope.name, seal_items(encoded, vault))
        return Done(len(fresh), len(documents) - len(fresh))

    def close(self) -> None:
        """Let go of the server."""
        self._memory.close()


class Missing:
    """Which documents of a corpus a scope does not hold with the same text; how a run is taken up again.

    An id that comes again in a run is written again, so that the last text of it is what stays, whatever was there.
    What was there with the same text and has ended, superseded by another memory say, is not brought back.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._seen: set[int] = set()  # hashes of ids
        self._was_empty = not holds_any(scope._store, scope.name)

    def of(self, documents: Sequence[Document]) -> list[Document]:
        """Those of the next documents, in their order; of one id among them only the last."""
        last = {d.id: d for d in documents}
        ids = list(last)
        there: dict[str, str | None] = {}
        for begin in range(0, len(ids), _IDS):
            found = store_of(self._scope).list(self._scope.name, {"id": {"$in": ids[begin : begin + _IDS]}})
            there |= {record.id: record.digest for record in found}
        vault = vault_of(self._scope)
        again = {id_ for id_ in ids if hash(id_) in self._seen}
        self._seen.update(map(hash, ids))
        return [d for d in last.values() if d.id in again or self._is_missing(d, vault, there)]

    def _is_missing(self, document: Document, vault: Vault, there: Mapping[str, str | None]) -> bool:
        digest = vault.digest(document.text, document.role)
        if document.id in there:
            return there[document.id] != digest
        if self._was_empty:
            return True
        try:
            ended = store_of(self._scope).history(self._scope.name, document.id)
        except MemoryNotFound:
            return True
        return all(record.digest != digest for record in ended)


def store_of(scope: Scope) -> Store:
    """The store below a scope: bulk work puts records that other processes made."""
    return scope._store


def vault_of(scope: Scope) -> Vault:
    """What seals the scope's payloads."""
    with scope._sealing() as vault:
        return vault
