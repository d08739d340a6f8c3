"""Every error this project raises: one tree, and each message says what to do next."""

from __future__ import annotations


class NextMemError(Exception):
    """The root of all errors raised by nextmem-agents."""


class InvalidArgument(NextMemError, ValueError):
    """An argument is of the wrong type or out of range; nothing was read or written."""


class EmptyText(InvalidArgument):
    """There is no text to remember."""


class TextTooLong(InvalidArgument):
    """A text exceeds the tokens that one chunk may have; ``LatentCodec.chunk`` splits it."""


class CheckpointError(NextMemError):
    """A codec checkpoint is missing, incomplete, altered or of a newer format."""


class CodecMismatch(NextMemError):
    """Latents, a payload or a store belong to another codec than the one given.

    Attributes:
        written: the fingerprint that a store was written with; None where it is not about a store.
    """

    def __init__(self, message: str, written: str | None = None):
        super().__init__(message)
        self.written = written


class CannotAnswer(NextMemError):
    """The codec has not been trained to answer questions from latents."""


class MemoryRefused(NextMemError):
    """The application's write hook refused a text; nothing was written."""


class PayloadError(NextMemError):
    """The bytes kept for a chunk are damaged or of an unknown format."""


class StoreError(NextMemError):
    """The store cannot be opened, read or written."""


class StoreLocked(StoreError):
    """Another process is writing to this folder."""


class StoreClosed(StoreError):
    """The store, or the scope's store, was closed."""


class ReadOnlyStore(StoreError):
    """The store was opened read-only."""


class NewerFormat(StoreError):
    """The folder was written by a newer version; it was left untouched."""


class DamagedStore(StoreError):
    """The file of a store's records is lost or malformed; it was left as it is."""


class DamagedRecord(StoreError):
    """One memory's stored bytes no longer check out; all others stay readable."""


class KeyMissing(StoreError):
    """A scope is encrypted, and its key is not there or cannot be unlocked."""


class MemoryNotFound(StoreError, KeyError):
    """No memory of this id exists in this scope."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Overtaken(StoreError):
    """Another write has changed the memory since it was read; nothing was written. ``Scope.update`` reads again."""


class DataError(NextMemError):
    """An input file (conversation, corpus, configuration) is missing or malformed."""


class MissingExtra(NextMemError, ImportError):
    """An optional dependency is not installed."""


class ReaderError(NextMemError):
    """Whoever was asked gave no reply: a server that cannot be reached, a model that failed."""
