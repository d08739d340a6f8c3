"""What all operations on a scope share: its store, its codec, and how payloads become memories."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from nextmem_agents.codec.exact import DecompressedText, decompress
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.items import OnRemember
from nextmem_agents.observability import observed
from nextmem_agents.quantization import Payload
from nextmem_agents.recall.budget import TokenCounter, token_counter
from nextmem_agents.recall.embedders import Embedder
from nextmem_agents.recall.hits import DecodeBatch, Memory
from nextmem_agents.scope.decoded import decoded_texts
from nextmem_agents.scope.vault import Vault
from nextmem_agents.scope.writing import holds_any, refuse_plain, refuse_sealed
from nextmem_agents.store.keys import KeyRing
from nextmem_agents.store.records import Record, Store

if TYPE_CHECKING:
    from typing_extensions import Self


class ScopeBase:
    """A scope's name, store and codec, and what its operations are made of."""

    def __init__(
        self,
        name: str,
        store: Store,
        codec: LatentCodec,
        keep_text: bool | None = None,
        keys: KeyRing | None = None,
        encrypted: bool = False,
        embedder: Embedder | None = None,
        on_remember: Sequence[OnRemember] = (),
    ):
        self.name = name
        self._store = store
        self.codec = codec
        self._keep_text = keep_text
        self._keys = keys
        self._encrypt = encrypted
        self._embedder = embedder
        self._on_remember = tuple(on_remember)

    def __repr__(self) -> str:
        return f"Scope({self.name!r})"

    def __deepcopy__(self, _: object) -> Self:
        """Itself: see :class:`~nextmem_agents.NextMem`'s."""
        return self

    @property
    def encrypted(self) -> bool:
        """Whether payloads are encrypted under this scope's own key, and no lexical index is kept."""
        return self._vault().encrypted or self._encrypt

    def _vault(self) -> Vault:
        return Vault(self.name, None if self._keys is None else self._keys.get(self.name))

    @contextmanager
    def _sealing(self) -> Iterator[Vault]:
        """What to seal and write with while the scope's key stays as it is; the first write to encrypt makes one.

        Raises:
            InvalidArgument: the scope is to be encrypted and holds memories that are not.
            KeyMissing: the scope holds encrypted memories, and its key is not there.
            ReadOnlyStore: a key would have to be made, for a store that cannot be written to.
        """
        if self._keys is None:
            yield Vault(self.name, None)
            return
        with ExitStack() as held:
            key = held.enter_context(self._keys.kept(self.name))
            if key is None:
                if self.name not in self._keys.plain and refuse_sealed(self._store, self.name):
                    self._keys.plain.add(self.name)
                if self._encrypt:
                    held.close()
                    key = held.enter_context(self._made_key(self._keys))
            yield Vault(self.name, key)

    @contextmanager
    def _made_key(self, keys: KeyRing) -> Iterator[bytes]:
        with keys.changing():
            fresh = keys.get(self.name) is None
            if fresh:
                self._store.put(self.name, [])  # writes nothing, but raises where nothing can be written
                refuse_plain(self._store, self.name)
            try:
                yield keys.make(self.name)
            except BaseException:
                if fresh and not holds_any(self._store, self.name):
                    keys.erase(self.name)
                raise

    def token_counter(self, model: str | None = None) -> TokenCounter:
        """What counts tokens for a model by name: tiktoken where it knows the model and has its file here, else the
        codec's tokenizer. ``source`` says which.
        """
        own = TokenCounter(f"codec:{self.codec.config.name}", self.codec.count_tokens)
        return token_counter(model, own)

    def _batch(self, records: Sequence[Record]) -> tuple[builtins.list[Record], DecodeBatch]:
        """The records that are still there, and their payloads to be decoded together."""
        stored = self._store.payloads(self.name, [record.version for record in records])
        short = {r.version for r in records if len(stored.get(r.version, ())) != r.n_chunks}
        # Payloads are read after records: what was forgotten in between is gone, and not damaged.
        there = self._store.records(self.name, list(short)) if short else {}
        left = [r for r in records if r.version not in short or r.version in there]
        vault = self._vault()
        read = [vault.read(record, stored.get(record.version, []), self.codec) for record in left]
        return left, DecodeBatch(read, self._decompress)

    def _memories(self, records: Sequence[Record]) -> builtins.list[Memory]:
        left, batch = self._batch(records)
        return [Memory(record, batch, i) for i, record in enumerate(left)]

    @observed("decode", items=lambda texts, *_, **__: len(texts))
    def _decompress(self, memories: Sequence[Sequence[Payload]]) -> builtins.list[DecompressedText]:
        if self.encrypted:  # its texts are readable with its key alone, and are not kept
            return decompress(self.codec, memories)
        return decoded_texts(self._store).texts(
            self.name, memories, lambda chunks: decompress(self.codec, chunks)
        )
