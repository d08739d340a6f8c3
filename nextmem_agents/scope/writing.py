"""Items to records: compressed, sealed, indexed; repeats told from new memories."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nextmem_agents.codec.exact import CompressedChunk, compress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import InvalidArgument, KeyMissing
from nextmem_agents.items import Item
from nextmem_agents.observability import observed
from nextmem_agents.quantization import Payload
from nextmem_agents.recall.embedders import Embedder
from nextmem_agents.recall.lexical import terms
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store.clock import utc_now
from nextmem_agents.store.exact import unit
from nextmem_agents.store.keys import MAGIC
from nextmem_agents.store.records import NewRecord, Store, Where

_CANDIDATES = 8  # of near-duplicates, that are looked at first


@dataclass(frozen=True, eq=False)
class EncodedItem:
    """An item whose text is encoded and not yet sealed.

    Attributes:
        payloads: one per chunk.
        vectors: float32 [n_chunks, P], the index vectors.
    """

    item: Item
    payloads: list[Payload]
    vectors: npt.NDArray[np.float32]


@observed("encode", items=lambda encoded, *_, **__: len(encoded))
def encode_items(
    items: Sequence[Item], codec: LatentCodec, keep_text: bool | None, embedder: Embedder | None = None
) -> list[EncodedItem]:
    """One encoded item per item: the slow part of writing, which needs no key."""
    texts = [item.text for item in items]
    compressed = compress(codec, texts, keep_text)
    vectors = index_vectors(codec, embedder, texts, compressed)
    return [
        EncodedItem(item, [chunk.payload for chunk in chunks], indexed)
        for item, chunks, indexed in zip(items, compressed, vectors, strict=True)
    ]


def seal_items(
    encoded: Sequence[EncodedItem], vault: Vault, fold: bool = False, former: int | None = None
) -> list[NewRecord]:
    """One record per item; an encrypted scope's has no terms, since they are words of the text."""
    records = []
    for each in encoded:
        item = each.item
        id_ = item.id if item.id is not None else uuid.uuid4().hex
        records.append(
            NewRecord(
                id=id_,
                payloads=[vault.seal(payload, id_, n) for n, payload in enumerate(each.payloads)],
                vectors=each.vectors,
                terms={} if vault.encrypted else words_of(item.text, item.role),
                session=item.session,
                agent=item.agent,
                role=item.role,
                occurred_at=item.occurred_at,
                metadata=item.metadata,
                digest=vault.digest(item.text, item.role),
                fold=fold,
                former=former,
                **asdict(item.life),
            )
        )
    return records


def words_of(text: str, role: str | None) -> dict[str, int]:
    """The terms of a memory; a speaker's name is a word that people ask with."""
    return terms(f"{role}: {text}" if role else text)


def refuse_plain(store: Store, scope: str) -> None:
    """Raise ``InvalidArgument`` if a scope that is to be encrypted holds anything, former versions included.

    Raises:
        InvalidArgument: it does.
        KeyMissing: what it holds is encrypted, and the key is not there.
    """
    refuse_sealed(store, scope)
    if holds_any(store, scope):
        raise InvalidArgument(
            f"the scope {scope!r} holds memories that are not encrypted; export it, erase it, and import it into "
            "memory.scope(..., encrypted=True)"
        )


def refuse_sealed(store: Store, scope: str) -> bool:
    """Whether a scope without a key holds memories, which are not encrypted.

    Raises:
        KeyMissing: they are encrypted; what is written without the key could not be read beside them with it.
    """
    for record in store.list(scope, limit=1):
        stored = store.payloads(scope, [record.version]).get(record.version, ())
        if any(data.startswith(MAGIC) for data in stored):
            raise KeyMissing(
                f"the scope {scope!r} is encrypted and its key is not there, so that nothing was written; it was "
                "erased, or keys.json is missing: restore it from a copy, or erase the scope to begin anew"
            )
        return True
    return False


def holds_any(store: Store, scope: str) -> bool:
    """Whether any version of a memory is in the scope."""
    return any(True for _ in store.dump(scope))


def index_vectors(
    codec: LatentCodec,
    embedder: Embedder | None,
    texts: Sequence[str],
    compressed: Sequence[Sequence[CompressedChunk]],
) -> list[npt.NDArray[np.float32]]:
    """The index vectors of each text's chunks, [n_chunks, P]: the embedder's, or those of the codec's latents."""
    if embedder is None:
        return [torch.stack([chunk.vector for chunk in chunks]).numpy() for chunks in compressed]
    return chunk_vectors(codec, embedder, [codec.chunk(text) for text in texts])


def chunk_vectors(
    codec: LatentCodec, embedder: Embedder | None, texts: Sequence[Sequence[str]]
) -> list[npt.NDArray[np.float32]]:
    """The index vectors of texts that are given as their chunks; all are embedded in one call."""
    flat = [chunk for chunks in texts for chunk in chunks]
    if not flat:
        return []
    if embedder is None:
        vectors = codec.index_vectors(codec.dequantize(codec.quantize(codec.encode(flat)))).numpy()
    else:
        vectors = embedder.texts(flat)
    ends = np.cumsum([len(chunks) for chunks in texts])
    return np.split(vectors, ends[:-1])


def expiry(expires_at: Any, ttl: timedelta | float | None) -> Any:
    """When a memory expires, given as a time or as a time to live from now.

    Raises:
        InvalidArgument: both are given, or ``ttl`` is no positive duration.
    """
    if ttl is None:
        return expires_at
    if expires_at is not None:
        raise InvalidArgument("give either expires_at or ttl")
    try:
        span = ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl)
        if isinstance(ttl, bool) or span <= timedelta(0):
            raise ValueError
        return utc_now() + span
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"ttl is a positive timedelta or number of seconds, not {ttl!r:.80}") from error


def put_unlike(store: Store, scope: str, records: Sequence[NewRecord], threshold: float | None) -> list[str]:
    """Write the records, but those that are near-duplicates by a threshold; returns the ids of what stands for each."""
    if threshold is None:
        return store.put(scope, records)
    kept: list[NewRecord] = []
    ids: list[str | None] = []
    for record in records:
        ids.append(near_duplicate_of(store, scope, record, threshold, kept))
        if ids[-1] is None:
            kept.append(record)
    written = iter(store.put(scope, kept))
    return [next(written) if id_ is None else id_ for id_ in ids]


def near_duplicate_of(
    store: Store, scope: str, record: NewRecord, threshold: float, written: Sequence[NewRecord]
) -> str | None:
    """The memory of the record's session whose every chunk is as similar as the threshold to it, or None.

    A memory of another number of chunks is never one. ``written`` are the records before it in the same call.
    """
    for other in written:
        if other.session == record.session and _similar(other.vectors, record.vectors, threshold):
            return other.id
    where: Where | None = None if record.session is None else {"session": record.session}
    asked = _CANDIDATES
    while True:
        candidates = store.nearest(scope, record.vectors[0], asked, where)
        close = [version for version, similarity in candidates if similarity >= threshold]
        if len(close) < asked:
            break
        asked *= 4  # no filter names what has no session, and memories of all sessions may stand before it
    for version, found in store.records(scope, close).items():
        if found.session != record.session or found.n_chunks != len(record.payloads):
            continue
        each = [
            dict(store.nearest(scope, vector, _CANDIDATES, {"id": found.id})).get(version, -1.0)
            for vector in record.vectors
        ]
        if min(each) >= threshold:
            return found.id
    return None


def check_threshold(value: object) -> float | None:
    """A near-duplicate threshold: a cosine above 0 and up to 1, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InvalidArgument(f"near_duplicates is a similarity above 0 and at most 1, not {value!r:.80}")
    return float(value)


def _similar(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], threshold: float) -> bool:
    return a.shape == b.shape and bool((np.sum(unit(a) * unit(b), axis=-1) >= threshold).all())


def changes(given: Mapping[str, Any], former: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new version: those that were given, and the former ones."""
    return {name: former[name] if given.get(name) is None else given[name] for name in former}


def last_moment(value: datetime | None) -> datetime | None:
    """A former end of validity, unless it has passed: a new version begins a new one."""
    return None if value is None or value <= utc_now() else value
