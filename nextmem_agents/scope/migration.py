"""Moving memories to another codec: decoded exactly, encoded anew, into another store; the old one stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from nextmem_agents.codec.exact import compress, decompress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DamagedRecord
from nextmem_agents.recall.embedders import Embedder
from nextmem_agents.scope.vault import Vault
from nextmem_agents.scope.writing import index_vectors, words_of
from nextmem_agents.store.records import Damage, NewRecord, Progress, Record, Store

BATCH = 64


@dataclass(frozen=True)
class Migration:
    """What a migration did, or, as a dry run, would do.

    Attributes:
        migrated: versions of memories that were written now.
        there_before: versions that an earlier, interrupted run had written.
        damaged: versions whose text does not come back exactly; they stay in the old store alone.
        dry_run: whether nothing was written.
    """

    migrated: int
    there_before: int
    damaged: tuple[Damage, ...]
    dry_run: bool


@dataclass(frozen=True)
class Side:
    """One end of a migration: a store, its codec, its scopes' vaults, and its embedder if it has one.

    Attributes:
        vault: of a scope, to read with.
        sealing: to write with, of a scope that is to be encrypted or not; raises at once if it cannot be.
    """

    store: Store
    codec: LatentCodec
    vault: Callable[[str], Vault]
    sealing: Callable[[str, bool], AbstractContextManager[Vault]]
    embedder: Embedder | None = None


def migrate_store(
    source: Side, target: Side, *, keep_text: bool | None, dry_run: bool, progress: Progress | None
) -> Migration:
    """Write every version of every scope into another store; run again, it goes on where it was interrupted.

    What is encrypted stays so.

    Raises:
        InvalidArgument: a scope cannot be encrypted in the target; nothing was written.
    """
    damaged: list[Damage] = []
    migrated = before = 0
    scopes = {scope: source.vault(scope).encrypted for scope in source.store.scopes()}
    for scope, encrypted in scopes.items():
        target.sealing(scope, encrypted)
    for scope, encrypted in scopes.items():
        # Versions that one call wrote can share id and time: those there before are the first of them that are sound.
        held = Counter(_named(record) for record in source.store.dump(scope))
        done = Counter(_named(record) for record in target.store.dump(scope))
        total = held.total()
        versions = source.store.dump(scope)
        seen = 0
        while page := [*islice(versions, BATCH)]:
            seen += len(page)
            left = [record for record in page if done[_named(record)] < held[_named(record)]]
            before += len(page) - len(left)
            exact = []
            for record, text in _decoded(source, scope, left, damaged):
                if done[_named(record)]:
                    done[_named(record)] -= 1
                    before += 1
                else:
                    exact.append((record, text))
            if exact and not dry_run:
                _write(target, scope, encrypted, exact, keep_text)
            migrated += len(exact)
            if progress is not None:
                progress(seen, total)
    return Migration(migrated, before, tuple(damaged), dry_run)


def _named(record: NewRecord) -> tuple[str, datetime | None]:
    return record.id, record.updated_at


def _decoded(
    side: Side, scope: str, records: list[NewRecord], damaged: list[Damage]
) -> Iterator[tuple[NewRecord, str]]:
    vault = side.vault(scope)
    sound = []
    for record in records:
        payloads = vault.read(_described(record), record.payloads, side.codec)
        if isinstance(payloads, DamagedRecord):
            damaged.append(Damage(scope, record.id, 0, str(payloads)))
        else:
            sound.append((record, payloads))
    texts = decompress(side.codec, [payloads for _, payloads in sound])
    for (record, _), text in zip(sound, texts, strict=True):
        if text.exact:
            yield record, text.text
        else:
            damaged.append(Damage(scope, record.id, 0, "its text does not come back exactly"))


def _write(
    side: Side, scope: str, encrypted: bool, texts: list[tuple[NewRecord, str]], keep_text: bool | None
) -> None:
    plain = [text for _, text in texts]
    compressed = compress(side.codec, plain, keep_text)
    vectors = index_vectors(side.codec, side.embedder, plain, compressed)
    with side.sealing(scope, encrypted) as vault:
        fresh = [
            replace(
                record,
                payloads=[vault.seal(chunk.payload, record.id, n) for n, chunk in enumerate(chunks)],
                vectors=indexed,
                terms={} if vault.encrypted else words_of(text, record.role),
                digest=vault.digest(text, record.role),
            )
            for (record, text), chunks, indexed in zip(texts, compressed, vectors, strict=True)
        ]
        side.store.put(scope, fresh)


def _described(record: NewRecord) -> Record:
    """As much of a record as reading its payloads takes."""
    written = record.updated_at or datetime.min
    return Record(
        version=0,
        id=record.id,
        session=None,
        agent=None,
        role=None,
        occurred_at=None,
        created_at=written,
        updated_at=written,
        metadata={},
        n_chunks=len(record.payloads),
        valid_from=written,
    )
