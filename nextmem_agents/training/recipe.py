"""A whole small codec from one file: the codec itself, then what it is searched by, then what reads answers from it.

The file holds the settings of :class:`ScratchConfig`, and beside them, under ``index_head`` and ``span_reader``, those
of :class:`IndexHeadConfig` and :class:`SpanReaderConfig`; a part that is not there is not trained. ``mini.json`` is the
shipped codec's.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.evaluation.reconstruction import Reconstruction, measure
from nextmem_agents.training import settings
from nextmem_agents.training.card import CARD_FILE, model_card
from nextmem_agents.training.config import ScratchConfig
from nextmem_agents.training.export import export_run, extend_codec
from nextmem_agents.training.held_out import held_out_chunks
from nextmem_agents.training.matching import IndexHeadConfig, train_index_head
from nextmem_agents.training.scratch import is_first_process, train_from_scratch
from nextmem_agents.training.span_reading import SpanReaderConfig, train_span_reader

_PROCESSES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Recipe:
    """What is trained, one after the other.

    Attributes:
        codec: the codec, from random weights or from another codec's.
        index_head: what its latents are searched by.
        span_reader: what finds answers in them; it reads what an index head names.
    """

    codec: ScratchConfig
    index_head: IndexHeadConfig | None = None
    span_reader: SpanReaderConfig | None = None

    def __post_init__(self) -> None:
        if self.span_reader is not None and self.index_head is None:
            raise InvalidArgument("a span reader reads from an index head: give index_head, too")

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe from JSON or YAML.

        Raises:
            DataError: see :func:`settings.load`; or there is a span reader without an index head.
        """
        values = settings.read(path)
        parts = values if isinstance(values, dict) else {}
        head, reader = parts.pop("index_head", None), parts.pop("span_reader", None)
        codec = settings.parse(ScratchConfig, values, str(path))
        try:
            return cls(
                codec,
                None if head is None else settings.parse(IndexHeadConfig, head, f"{path}, index_head"),
                None if reader is None else settings.parse(SpanReaderConfig, reader, f"{path}, span_reader"),
            )
        except InvalidArgument as error:
            raise DataError(f"{path}: {error}") from error

    def with_steps(self, steps: int) -> Recipe:
        """The same with another number of steps in every part."""
        head, reader = self.index_head, self.span_reader
        return Recipe(
            dataclasses.replace(self.codec, steps=steps),
            None if head is None else dataclasses.replace(head, steps=steps),
            None if reader is None else dataclasses.replace(reader, steps=steps),
        )


def train_recipe(
    recipe: Recipe, data: Path, run: Path, export: Path | None = None, *, compile_model: bool = True
) -> Reconstruction | None:
    """Train every part, going on from what ``run`` holds, and write the codec into the new folder ``export``.

    Several processes, as torchrun starts them, train the codec; the first of them trains the rest, alone.

    Returns:
        How well held-out texts come back, as the model card says; None without ``export`` or held-out texts.

    Raises:
        DataError: a file of training text is missing or empty.
        CheckpointError: ``run`` belongs to other settings, ``export`` is not empty, or one of them cannot be written.
    """
    if export is not None:
        checkpoint.check_new(export)
    train_from_scratch(recipe.codec, data, run, compile_model=compile_model)
    if not is_first_process():
        return None
    with _alone():
        if recipe.index_head is not None:
            finished = _with_parts(recipe, recipe.index_head, data, run, compile_model)
            if export is not None:
                shutil.copytree(finished, export, dirs_exist_ok=True)
        elif export is not None:
            export_run(run, export)
        return None if export is None else _measured(recipe, run, export)


def _with_parts(
    recipe: Recipe, head_config: IndexHeadConfig, data: Path, run: Path, compile_model: bool
) -> Path:
    """Train what belongs to a run's codec; the folder of the codec that has it."""
    plain = _new(run / "codec")
    export_run(run, plain)
    codec = LatentCodec.load(plain)
    # A run that went on longer is another codec, and its parts begin anew.
    parts = run / codec.fingerprint[:12]
    head = train_index_head(codec, head_config, data, parts / "index-head", compile_model=compile_model)
    searched = _new(parts / "searched")
    extend_codec(plain, searched, head=head)
    if recipe.span_reader is None:
        return searched
    codec = LatentCodec.load(searched)
    reader = train_span_reader(codec, recipe.span_reader, data, parts / "span-reader")
    read = _new(parts / "read")
    extend_codec(searched, read, span_reader=reader)
    return read


def _measured(recipe: Recipe, run: Path, folder: Path) -> Reconstruction | None:
    """Measure a codec on what its run has held out, and write its model card."""
    codec = LatentCodec.load(folder)
    texts = held_out_chunks(run / "corpus", codec, recipe.codec.evaluate_texts)
    found = measure(codec, texts) if texts else None
    size = sum(parameter.numel() for parameter in codec.decoder.model.parameters())
    config = codec.config
    about = (
        f"A small NextMem codec, trained from scratch: a text of up to {config.max_tokens} tokens becomes one latent "
        f"for every\n{config.tokens_per_latent} tokens and is decoded again. {size:,} parameters."
    )
    named = {"Codec": recipe.codec, "Index head": recipe.index_head, "Span reader": recipe.span_reader}
    trained = {title: part for title, part in named.items() if part is not None}
    (folder / CARD_FILE).write_text(model_card(config.name, about, found, trained), encoding="utf-8")
    return found


def _new(folder: Path) -> Path:
    """A folder in a run that is written anew each time."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@contextmanager
def _alone() -> Iterator[None]:
    """As if torchrun had started no other process: with all threads, and nobody to wait for."""
    kept = {name: os.environ.pop(name) for name in _PROCESSES if name in os.environ}
    threads = torch.get_num_threads()
    if kept:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads)
    try:
        yield
    finally:
        os.environ.update(kept)
        torch.set_num_threads(threads)
