"""``NextMemVectorStore``: a scope as a LangChain vector store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_nextmem.scopes import scope_of
from nextmem_agents.errors import InvalidArgument, MemoryNotFound
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.hits import Hit, Memory
from nextmem_agents.scope import Scope
from nextmem_agents.scope.searching import Ranking
from nextmem_agents.store.checks import RESERVED_FIELDS

_OWN = "langchain_"


class NextMemVectorStore(VectorStore):
    """One scope, for all that takes a vector store: indexing pipelines, ``VectorStoreRetrieverMemory``, self-query.

    A document is a memory: its ``id`` the memory's, its text exact, its metadata strings, numbers and booleans. The
    same id again replaces, and the former text stays in ``scope.history``. Relevance scores are 0..1.

    A vector store finds the k nearest by vectors, however far they are, and so does this one by default: by the codec's
    latents, or by the model of ``NextMem.open(embedder=...)``, which is what to bring for documents.
    ``ranking="hybrid"`` counts words and neighbouring turns as well, as :class:`NextMemRetriever` does, and leaves out
    what nothing speaks for, so that there may be fewer than k.

    Args:
        memory: a store (``user_id`` then names the scope), or the scope itself; by default the default store.
        user_id: whose; None for the scope ``default``.
        ranking: see :meth:`Scope.recall`.

    Raises:
        InvalidArgument: ``memory`` is another user's scope.

    Examples:
        >>> from nextmem_agents import NextMem
        >>> with NextMem.open(":memory:") as store:
        ...     documents = NextMemVectorStore(store, user_id="alice")
        ...     ids = documents.add_texts(["The vet opens at ten."], ids=["vet"])
        ...     documents.similarity_search("When does the vet open?", k=1)
        [Document(id='vet', metadata={}, page_content='The vet opens at ten.')]
    """

    def __init__(
        self,
        memory: NextMem | Scope | None = None,
        *,
        user_id: str | None = None,
        ranking: Ranking = "latent",
    ) -> None:
        self.ranking: Ranking = ranking
        self.scope = scope_of(NextMem.open() if memory is None else memory, user_id)

    @classmethod
    def from_texts(  # type: ignore[override]  # named arguments in place of LangChain's **kwargs
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        memory: NextMem | Scope | None = None,
        user_id: str | None = None,
        ranking: Ranking = "latent",
    ) -> NextMemVectorStore:
        """A store that holds texts.

        Args:
            texts: of the documents.
            embedding: an embedding model for a store that ends with the process. A ``memory`` has its own already.
            metadatas: one for each text.
            ids: one for each text.
            memory: where to put them; by default the default store, or where an embedding model is given a new one.
            user_id: see the class, as for ``ranking``.
        """
        if memory is None and embedding is not None:
            memory = NextMem.open(":memory:", embedder=embedding)
        store = cls(memory, user_id=user_id, ranking=ranking)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(  # type: ignore[override]  # as from_texts
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - LangChain's indexing gives it; all is one transaction here
    ) -> list[str]:
        """Remember texts, in one transaction; returns their ids.

        Raises:
            EmptyText: a text is empty; nothing was written.
            InvalidArgument: metadata is nested, or a list is not as long as the texts; nothing was written.
        """
        kept = None if metadatas is None else [_kept(metadata) for metadata in metadatas]
        return self.scope.remember(list(texts), id=ids, metadata=kept)  # type: ignore[arg-type]  # None: a new id

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool:
        """Forget memories by id, or all of the scope; an id that is not there is passed over."""
        if ids is None:
            self.scope.clear()
        elif known := [memory.id for memory in self._known(ids)]:
            self.scope.forget(known)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of those ids that are there, in the order of the ids."""
        known = [memory.id for memory in self._known(ids)]
        return [_document(memory) for memory in (self.scope.get(known) if known else [])]

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangChain's name
        **options: Any,
    ) -> list[Document]:
        """The k documents that fit a query best.

        Args:
            query: a question or any text.
            k: at most so many.
            filter: on the documents' metadata, in the form of ``where``.
            **options: of :meth:`Scope.recall`.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **options)]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangChain's name
        **options: Any,
    ) -> list[tuple[Document, float]]:
        """The same with their scores, 0..1, higher is better."""
        hits: Iterable[Hit] = self.scope.recall(
            query, k, where=filter and _kept(filter), **{"ranking": self.ranking, **options}
        )
        return [(_document(hit), hit.score) for hit in hits]

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangChain's name
        **options: Any,
    ) -> list[Document]:
        """The k documents whose index vectors are nearest to one of the codec's, or of the memory's own embedder."""
        return self.similarity_search("", k, filter, vector=embedding, ranking="latent", **options)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,  # noqa: ARG002 - recall chooses how many to look at
        lambda_mult: float = 0.5,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        **options: Any,
    ) -> list[Document]:
        """Documents that fit and do not repeat one another; ``lambda_mult`` 1 is the order of the scores."""
        return self.similarity_search(query, k, filter, diversity=1 - lambda_mult, **options)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return float  # a score is a relevance

    def _known(self, ids: Sequence[str]) -> list[Memory]:
        found = []
        for each in ids:
            try:
                found.append(self.scope.get(each))
            except MemoryNotFound:
                continue
        return found


def _document(memory: Memory) -> Document:
    return Document(id=memory.id, page_content=memory.text, metadata=_given(memory.metadata))


def _kept(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A document's metadata, or a filter on it, as a memory's, which has fields of its own by some of those names."""
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(
            f"metadata and filters are mappings such as {{'year': 2024}}, not {metadata!r:.80}"
        )
    return {_OWN + key if _renamed(key) else key: value for key, value in metadata.items()}


def _given(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`_kept` changed, changed back."""
    return {key.removeprefix(_OWN) if _renamed(key) else key: value for key, value in metadata.items()}


def _renamed(key: Any) -> bool:
    """Whether a key is a field's name, or looks like one that was renamed."""
    while isinstance(key, str) and key.startswith(_OWN):
        key = key.removeprefix(_OWN)
    return key in RESERVED_FIELDS
