"""A user's embedder: its vectors stand in the index in place of the codec's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nextmem_agents.errors import InvalidArgument

_MAX_NAME = 200


@dataclass(frozen=True, eq=False)
class Embedder:
    """Texts to vectors, by a model that the user brings.

    ``NextMem.open(embedder=...)`` makes one of any LangChain ``Embeddings``, any LlamaIndex ``BaseEmbedding``, and any
    function with a name of its own; build it yourself for a function without one, or to name the model's version.

    Attributes:
        embed: called with n texts; gives n vectors of the same length.
        name: of the model; it belongs to the store's identity, since vectors of two models cannot be compared.
        dimension: P, the length of a vector; None to find out by embedding a word, once.
        embed_query: called with one query; gives one vector. None where queries are embedded as texts are.

    Examples:
        >>> lengths = Embedder(lambda texts: [[len(text), 1.0] for text in texts], name="lengths-v1")
        >>> lengths.texts(["Hi", "Hello"])
        array([[2., 1.],
               [5., 1.]], dtype=float32)
        >>> lengths.size
        2
    """

    embed: Callable[[Sequence[str]], Any]
    name: str
    dimension: int | None = None
    embed_query: Callable[[str], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= _MAX_NAME:
            raise InvalidArgument(f"an embedder's name is a string of 1 to {_MAX_NAME} characters")
        if not callable(self.embed) or not (self.embed_query is None or callable(self.embed_query)):
            raise InvalidArgument("an embedder is made of functions from texts to vectors")
        size = len(self._vectors(["dimension"], None)[0]) if self.dimension is None else self.dimension
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InvalidArgument(f"an embedder's dimension is a whole number from 1, not {size!r:.80}")
        object.__setattr__(self, "dimension", size)

    @property
    def size(self) -> int:
        """P, the length of a vector."""
        assert self.dimension is not None  # noqa: S101 - __post_init__ set it
        return self.dimension

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts, float32 [n, P].

        Raises:
            InvalidArgument: the model gave something else.
        """
        return self._vectors(texts, self.size)

    def query(self, query: str) -> npt.NDArray[np.float32]:
        """The vector of a query, float32 [P].

        Raises:
            InvalidArgument: the model gave something else.
        """
        found = self.embed([query]) if self.embed_query is None else [self.embed_query(query)]
        vector: npt.NDArray[np.float32] = self._checked(found, 1, self.size)[0]
        return vector

    def _vectors(self, texts: Sequence[str], size: int | None) -> npt.NDArray[np.float32]:
        return (
            self._checked(self.embed(list(texts)), len(texts), size)
            if texts
            else np.zeros((0, size or 0), "f4")
        )

    def _checked(self, found: Any, n: int, size: int | None) -> npt.NDArray[np.float32]:
        try:
            vectors = np.asarray(found, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f"the embedder {self.name!r} gave no vectors of one length: {error}"
            ) from error
        if vectors.ndim != 2 or len(vectors) != n or (size is not None and vectors.shape[1] != size):
            raise InvalidArgument(
                f"the embedder {self.name!r} gave numbers of shape {vectors.shape} for {n} texts, and is to give "
                f"({n}, {size or 'P'})"
            )
        if not np.isfinite(vectors).all():
            raise InvalidArgument(f"the embedder {self.name!r} gave a vector with a value that is not finite")
        return vectors


def as_embedder(given: Any) -> Embedder:
    """An embedder of what a user has: LangChain's, LlamaIndex's, or a named function from texts to vectors.

    Raises:
        InvalidArgument: it is none of them, or a function whose name does not tell it from others.

    Examples:
        >>> def lengths(texts):
        ...     return [[len(text)] for text in texts]
        >>> as_embedder(lengths).name.rpartition(".")[2]
        'lengths'
    """
    if isinstance(given, Embedder):
        return given
    if callable(getattr(given, "embed_documents", None)) and callable(getattr(given, "embed_query", None)):
        return Embedder(given.embed_documents, _name(given), embed_query=given.embed_query)
    if callable(getattr(given, "get_text_embedding_batch", None)):
        return Embedder(given.get_text_embedding_batch, _name(given), embed_query=given.get_query_embedding)
    if not callable(given):
        raise InvalidArgument(
            f"an embedder is a LangChain Embeddings, a LlamaIndex BaseEmbedding, or a function from texts to vectors; "
            f"{type(given).__name__} is none"
        )
    function = getattr(given, "__qualname__", "")
    if not function or "<lambda>" in function:
        raise InvalidArgument(
            "this function has no name that tells it from others; give it one: Embedder(function, name='…')"
        )
    owner = getattr(given, "__self__", None)
    return Embedder(
        given, f"{given.__module__}.{function}" if owner is None else f"{_name(owner)}.{given.__name__}"
    )


def _name(model: Any) -> str:
    """The class and, where it says so, the model: ``OpenAIEmbeddings(text-embedding-3-small)``."""
    for attribute in ("model_name", "model", "model_id", "deployment", "repo_id"):
        known = getattr(model, attribute, None)
        if isinstance(known, str) and known and known != "unknown":
            return f"{type(model).__name__}({known})"[:_MAX_NAME]
    return type(model).__name__
