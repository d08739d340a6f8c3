"""Texts that were decoded before: the same memory, recalled again, is not decoded again.

A text is found by its scope and its whole payloads, which decoding depends on and nothing else, so that a text never
crosses scopes and a new version never gets an old text. Only proven texts are kept. They are in this process's memory
alone, a bounded number of bytes of them; encrypted scopes keep none; what deletes memories drops the scope's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

from nextmem_agents.codec.exact import DecompressedText
from nextmem_agents.quantization import Payload
from nextmem_agents.store.records import Store

MAX_BYTES = 2**24

Chunks: TypeAlias = Sequence[Payload]
_Key: TypeAlias = tuple[str, tuple[Payload, ...]]


class DecodedTexts:
    """The texts of memories, the least recently used of which leave first. Threads may share one.

    Args:
        max_bytes: of texts and the payloads that they are found by.

    Examples:
        >>> from nextmem_agents.quantization import text_checksum
        >>> kept, decoded = DecodedTexts(), []
        >>> def decode(memories):
        ...     decoded.extend(memories)
        ...     return [DecompressedText(chunks[0].literal.decode(), True) for chunks in memories]
        >>> note = [Payload(b"mini", 1, text_checksum(b"hi"), 2, literal=b"hi")]
        >>> [kept.texts(scope, [note], decode)[0].text for scope in ("alice", "alice", "bob")], len(decoded)
        (['hi', 'hi', 'hi'], 2)
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self._max_bytes = max_bytes
        self._bytes = 0
        self._texts: OrderedDict[_Key, DecompressedText] = OrderedDict()
        self._dropped = 0  # how often something was dropped: what was being decoded meanwhile is not kept
        self._lock = threading.Lock()

    def texts(
        self,
        scope: str,
        memories: Sequence[Chunks],
        decode: Callable[[Sequence[Chunks]], Sequence[DecompressedText]],
    ) -> list[DecompressedText]:
        """The texts of memories; those that are not kept are decoded together."""
        keys: list[_Key] = [(scope, tuple(chunks)) for chunks in memories]
        with self._lock:
            found = {key: self._texts[key] for key in keys if key in self._texts}
            for key in found:
                self._texts.move_to_end(key)
            dropped = self._dropped
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            found |= zip(missing, decode([key[1] for key in missing]), strict=True)
            with self._lock:
                if dropped == self._dropped:
                    for key in missing:
                        self._keep(key, found[key])
        return [found[key] for key in keys]

    def drop(self, scope: str | None = None) -> None:
        """Let go of a scope's texts, or of all."""
        with self._lock:
            self._dropped += 1
            for key in [key for key in self._texts if scope is None or key[0] == scope]:
                self._bytes -= _size(key, self._texts.pop(key))

    def _keep(self, key: _Key, text: DecompressedText) -> None:
        if not text.exact or key in self._texts or _size(key, text) > self._max_bytes:
            return
        self._texts[key] = text
        self._bytes += _size(key, text)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*self._texts.popitem(last=False))

    def __len__(self) -> int:
        return len(self._texts)


def _size(key: _Key, text: DecompressedText) -> int:
    """About the bytes in memory."""
    payloads = sum(600 + (0 if p.latents is None else p.latents.n_bytes) + p.n_bytes for p in key[1])
    return 200 + payloads + 4 * len(text.text)


_of_stores: WeakKeyDictionary[Store, DecodedTexts] = WeakKeyDictionary()
_lock = threading.Lock()


def decoded_texts(store: Store) -> DecodedTexts:
    """What was decoded from a store; it goes with the store."""
    with _lock:
        return _of_stores.setdefault(store, DecodedTexts())
