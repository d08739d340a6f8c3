"""A corpus on a cluster through Ray Data: files are read, encoded and written to the server by the cluster's nodes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextmem_agents.corpus.documents import Source, Split, as_rows, batches, from_rows, read_documents
from nextmem_agents.corpus.encoding import Done, Recipe, ServerWriter
from nextmem_agents.errors import MissingExtra


@dataclass(frozen=True)
class _Read:
    """The documents of files, as rows, batch by batch."""

    split: Split
    text_field: str
    size: int

    def __call__(self, block: Mapping[str, Any]) -> Iterator[dict[str, list[str]]]:
        for path, name in zip(block["path"], block["name"], strict=True):
            found = read_documents(
                [Source(Path(str(path)), str(name))], split=self.split, text_field=self.text_field
            )
            for batch in batches(found, self.size):
                yield {"document": as_rows(batch)}


class _Write:
    """An actor with a codec and a connection to the server."""

    def __init__(self, recipe: Recipe, url: str, settings: str) -> None:
        self._write = ServerWriter(recipe, url, json.loads(settings))

    def __call__(self, block: Mapping[str, Any]) -> dict[str, list[int]]:
        done = self._write(from_rows(map(str, block["document"])))
        return {"written": [done.written], "there_before": [done.there_before]}


def encode_on_ray(
    files: Sequence[Source],
    recipe: Recipe,
    url: str,
    settings: Mapping[str, Any],
    *,
    workers: int,
    batch_size: int,
    split: Split,
    text_field: str,
    address: str | None = None,
) -> Iterator[Done]:
    """Encode files and write them to a server's scope; yields as batches are done.

    Files have to be readable at the same path on every node. Each worker is an actor with one codec, on a GPU of its
    own where the recipe's device is ``"cuda"``.

    Args:
        files: the corpus.
        recipe: how.
        url: the Chroma server's address, as the nodes reach it.
        settings: further arguments of ``NextMem.open``.
        workers: how many actors.
        batch_size: documents at once.
        split, text_field: see ``read_documents``.
        address: of a Ray cluster; None for one on this machine, or the one that is connected already.

    Raises:
        MissingExtra: Ray is not installed.
    """
    # Ray reports its use to its makers otherwise; what the user has set stands.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra('--ray needs Ray: pip install "nextmem-agents[ray]"') from error
    started = not ray.is_initialized()
    if started:
        # One processor more than there are actors, so that files can be read while they work.
        local = {} if address else {"num_cpus": workers + 1, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = ray.data.from_items([{"path": str(s.path.resolve()), "name": s.name} for s in files])
        documents = rows.map_batches(_Read(split, text_field, batch_size), batch_size=1, batch_format="numpy")
        done = documents.map_batches(
            _Write,
            fn_constructor_args=(recipe, url, json.dumps(dict(settings))),
            batch_size=batch_size,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if recipe.device.startswith("cuda") else 0,
        )
        for row in done.iter_rows():
            yield Done(int(row["written"]), int(row["there_before"]))
    finally:
        if started:
            ray.shutdown()
