"""Payloads to the bytes that a store keeps and back: bound to their place, and encrypted where the scope is."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DamagedRecord, KeyMissing, PayloadError
from nextmem_agents.quantization import Payload, encode_binding
from nextmem_agents.store.keys import MAGIC, seal, unseal
from nextmem_agents.store.records import Record

DIGEST_BYTES = 16


class Vault:
    """Seals and opens the payloads of one scope.

    Args:
        scope: its name.
        key: 32 bytes, or None for a scope that is not encrypted.
    """

    def __init__(self, scope: str, key: bytes | None) -> None:
        self.scope = scope
        self._key = key

    @property
    def encrypted(self) -> bool:
        """Whether what is sealed is encrypted."""
        return self._key is not None

    def opens(self, other: Vault) -> bool:
        """Whether it opens what the other seals."""
        return (self.scope, self._key) == (other.scope, other._key)

    def seal(self, payload: Payload, id: str, chunk: int) -> bytes:  # noqa: A002 - the field's own name
        """The bytes to keep for chunk ``chunk`` of memory ``id``."""
        binding = encode_binding(self.scope, id, str(chunk))
        data = payload.to_bytes(binding)
        return data if self._key is None else seal(self._key, data, binding)

    def open(self, data: bytes, id: str, chunk: int, codec: LatentCodec) -> Payload:  # noqa: A002 - the field's own name
        """The payload that was sealed for this place.

        Raises:
            PayloadError: the bytes are damaged, of another place, or nothing that the codec writes.
            KeyMissing: they are encrypted, and this scope has no key.
        """
        if not data:
            raise PayloadError("not all of its chunks are there")
        binding = encode_binding(self.scope, id, str(chunk))
        if data.startswith(MAGIC):
            if self._key is None:
                raise KeyMissing(
                    f"memory {id!r} in scope {self.scope!r} is encrypted and the scope's key is not there; it was "
                    "erased, or keys.json is missing: restore it from a copy"
                )
            plain = unseal(self._key, data, binding)
            if plain is None:
                raise PayloadError("the encrypted payload is damaged or belongs to another scope or memory")
            data = plain
        elif self._key is not None:
            raise PayloadError("a payload that is not encrypted lies in an encrypted scope")
        payload = Payload.from_bytes(data, binding)
        codec.check_payload(payload)
        return payload

    def read(
        self, record: Record, stored: Sequence[bytes], codec: LatentCodec
    ) -> list[Payload] | DamagedRecord:
        """All payloads of a memory, or the error that reading its text is to raise."""
        try:
            if len(stored) != record.n_chunks:
                raise PayloadError(f"{len(stored)} of its {record.n_chunks} chunks are there")
            return [self.open(data, record.id, n, codec) for n, data in enumerate(stored)]
        except PayloadError as error:
            damaged = DamagedRecord(
                f"memory {record.id!r} in scope {self.scope!r} is damaged: {error}. All other memories stay "
                f"readable; restore the folder from a copy, or give this one up with forget([{record.id!r}])"
            )
            damaged.__cause__ = error
            return damaged

    def digest(self, text: str, role: str | None) -> str:
        """What stands for a text and its speaker: BLAKE2b-128, keyed in an encrypted scope."""
        data = encode_binding(text, role or "")
        if self._key is None:
            value = blake2b(data, digest_size=DIGEST_BYTES, person=b"nextmem text").digest()
        else:
            value = hmac.digest(self._key, data, "sha256")[:DIGEST_BYTES]
        return urlsafe_b64encode(value).decode().rstrip("=")
