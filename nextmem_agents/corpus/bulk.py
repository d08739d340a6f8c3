"""A corpus from its files to its destination: read, left out if it is there, encoded, written, counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nextmem_agents.corpus.destinations import Destination, FileDestination, StoreDestination
from nextmem_agents.corpus.documents import Document, Source, Split, batches, read_documents
from nextmem_agents.corpus.encoding import (
    Done,
    Encoder,
    Missing,
    Recipe,
    ServerWriter,
    fields_of,
    load_codec,
)
from nextmem_agents.corpus.workers import pooled
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.memory import NextMem
from nextmem_agents.scope import Scope
from nextmem_agents.store.records import NewRecord


@dataclass(frozen=True)
class Totals:
    """What became of a corpus so far.

    Attributes:
        read: documents that are done with.
        written: those that were encoded and written now.
        there_before: those that were there with the same text, from an earlier run.
    """

    read: int = 0
    written: int = 0
    there_before: int = 0

    def plus(self, done: Done) -> Totals:
        """With some more done."""
        n = done.written + done.there_before
        return Totals(self.read + n, self.written + done.written, self.there_before + done.there_before)


@dataclass(frozen=True)
class Bulk:
    """A plan for a corpus; each of its methods carries it out at one kind of destination.

    All of them are resumable: run again after any interruption, they go on where they were. Memory does not grow with
    the corpus.

    Attributes:
        files: the corpus; see :func:`~nextmem_agents.corpus.documents.sources`.
        recipe: how texts become records.
        workers: processes that encode, each with a codec of its own. With one, this process does.
        batch_size: documents that are encoded and written together.
        split: what one document of a text file is.
        text_field: the field of a JSON line that holds the text.
    """

    files: Sequence[Source]
    recipe: Recipe
    workers: int = 1
    batch_size: int = 256
    split: Split = "paragraphs"
    text_field: str = "text"

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("batch_size", self.batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgument(f"{name} must be a whole number of at least 1, not {value!r}")

    def into_folder(self, memory: NextMem, *, encrypted: bool = False) -> Iterator[Totals]:
        """Into a scope of an open memory: several processes encode, this one writes. Yields after each batch.

        Args:
            memory: open for writing, with the recipe's codec; one worker uses the memory's own.
            encrypted: as in ``NextMem.scope``.

        Raises:
            InvalidArgument: several workers for a memory with an embedder or ``on_remember``, which stay here.
        """
        scope = memory.scope(self.recipe.scope, encrypted=encrypted)
        if self.workers == 1:
            yield from self._remembered(scope)
            return
        if scope._embedder is not None or scope._on_remember:
            raise InvalidArgument(
                "a memory with an embedder or on_remember is written by one process: workers=1"
            )
        destination = StoreDestination(scope)
        yield from self._through(destination, replace(self.recipe, vault=destination.vault), None)

    def into_file(self, path: Path) -> Iterator[Totals]:
        """Into a new file that ``Scope.import_`` reads. Yields after each batch.

        Raises:
            DataError: the file is there already, or what an interrupted run left does not fit the corpus.
        """
        codec = load_codec(self.recipe)
        destination = FileDestination(path, codec, self.recipe.scope)
        encoder = Encoder(self.recipe, codec=codec) if self.workers == 1 else None
        yield from self._through(destination, self.recipe, encoder)

    def into_server(self, url: str, settings: Mapping[str, Any] | None = None) -> Iterator[Totals]:
        """Into a scope on a Chroma server, where every worker writes for itself. Yields after each batch.

        Args:
            url: ``http://host:port``.
            settings: further arguments of ``NextMem.open``.
        """
        make = partial(_server_writer, self._shared(self.recipe), url, dict(settings or {}))
        totals = Totals()
        if self.workers > 1:
            for done in pooled(make, batches(self._documents(), self.batch_size), self.workers):
                totals = totals.plus(done)
                yield totals
            return
        write = make(0)
        try:
            for batch in batches(self._documents(), self.batch_size):
                totals = totals.plus(write(batch))
                yield totals
        finally:
            write.close()

    def on_ray(
        self, url: str, settings: Mapping[str, Any] | None = None, address: str | None = None
    ) -> Iterator[Totals]:
        """As :meth:`into_server`, by the nodes of a Ray cluster; see ``encode_on_ray``."""
        from nextmem_agents.corpus.on_ray import encode_on_ray

        totals = Totals()
        for done in encode_on_ray(
            self.files,
            self.recipe,
            url,
            settings or {},
            workers=self.workers,
            batch_size=self.batch_size,
            split=self.split,
            text_field=self.text_field,
            address=address,
        ):
            totals = totals.plus(done)
            yield totals

    def _remembered(self, scope: Scope) -> Iterator[Totals]:
        totals, missing = Totals(), Missing(scope)
        for batch in batches(self._documents(), self.batch_size):
            fresh = missing.of(batch)
            if fresh:
                scope.remember([d.text for d in fresh], **fields_of(fresh))
            totals = totals.plus(Done(len(fresh), len(batch) - len(fresh)))
            yield totals

    def _documents(self) -> Iterator[Document]:
        return read_documents(self.files, split=self.split, text_field=self.text_field)

    def _shared(self, recipe: Recipe) -> Recipe:
        """Several workers share the processors of this machine, unless told otherwise."""
        if recipe.threads is not None or self.workers == 1:
            return recipe
        return replace(recipe, threads=max(1, (os.cpu_count() or 1) // self.workers))

    def _through(
        self,
        destination: Destination,
        recipe: Recipe,
        encoder: Callable[[Sequence[Document]], list[NewRecord]] | None,
    ) -> Iterator[Totals]:
        before = 0

        def fresh() -> Iterator[list[Document]]:
            nonlocal before
            for batch in batches(self._documents(), self.batch_size):
                rest = destination.missing(batch)
                before += len(batch) - len(rest)
                if rest:
                    yield rest

        work: Iterable[list[Document]] = fresh()
        if encoder is not None:
            encoded: Iterable[list[NewRecord]] = map(encoder, work)
        else:
            encoded = pooled(partial(_encoder, self._shared(recipe)), work, self.workers)
        written = 0
        try:
            for records in encoded:
                destination.write(records)
                written += len(records)
                yield Totals(written + before, written, before)
            destination.finish()
        finally:
            destination.close()
        yield Totals(written + before, written, before)


def _encoder(recipe: Recipe, worker: int) -> Encoder:
    return Encoder(recipe, worker)


def _server_writer(recipe: Recipe, url: str, settings: Mapping[str, Any], worker: int) -> ServerWriter:
    return ServerWriter(recipe, url, settings, worker)
