"""What ``verify`` looks for in the payloads of a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nextmem_agents.codec.exact import decompress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DamagedRecord, StoreError
from nextmem_agents.scope.vault import Vault
from nextmem_agents.store.records import Record


class PayloadCheck:
    """Says what is wrong with a memory's payloads, or None; a ``Check`` of the store protocol.

    Args:
        codec: whose payloads they are to be.
        vault: opens those of a scope.
        texts: decode them too.
    """

    def __init__(self, codec: LatentCodec, vault: Callable[[str], Vault], texts: bool) -> None:
        self._codec = codec
        self._vault = vault
        self._texts = texts

    def __call__(self, scope: str, record: Record, stored: Sequence[bytes]) -> str | None:
        """What is wrong, in words."""
        try:
            payloads = self._vault(scope).read(record, stored, self._codec)
        except StoreError as error:
            return str(error)
        if isinstance(payloads, DamagedRecord):
            return str(payloads.__cause__)
        if self._texts and not decompress(self._codec, [payloads])[0].exact:
            return "its text does not come back exactly"
        return None
