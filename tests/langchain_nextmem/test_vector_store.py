"""NextMemVectorStore passes LangChain's own suite, and does what its users do with a vector store."""

from __future__ import annotations

import warnings
from collections.abc import Generator

import pytest
from langchain_classic.memory import VectorStoreRetrieverMemory
from langchain_core._api import LangChainDeprecationWarning
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langchain_nextmem import NextMemVectorStore
from nextmem_agents import InvalidArgument, LatentCodec, NextMem, Scope


class TestConformance(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, codec: LatentCodec) -> Generator[NextMemVectorStore, None, None]:  # type: ignore[override]
        with NextMem.open(":memory:", codec=codec) as memory:
            yield NextMemVectorStore(memory, user_id="alice")


def test_a_search_is_a_recall_with_filters_scores_and_diversity(alice: Scope) -> None:
    documents = NextMemVectorStore(alice, ranking="hybrid")
    documents.add_texts(
        ["The vet opens at ten.", "The vet opens at ten o'clock.", "The baker opens at six."],
        [{"year": 2024}, {"year": 2025}, {"year": 2025}],
    )
    (only,) = documents.similarity_search("When does the vet open?", k=3, filter={"year": 2024})
    assert (only.page_content, only.metadata) == ("The vet opens at ten.", {"year": 2024})
    scored = documents.similarity_search_with_relevance_scores("When does the vet open?", k=3)
    assert [score for _, score in scored] == [hit.score for hit in alice.recall("When does the vet open?", 3)]
    different = documents.max_marginal_relevance_search("When does the vet open?", k=2, lambda_mult=0.1)
    assert "baker" in different[1].page_content
    vector = alice.codec.index_vectors(alice.codec.encode(["The baker opens at six."]))[0].tolist()
    assert "baker" in documents.similarity_search_by_vector(vector, k=1)[0].page_content
    assert "baker" in documents.as_retriever(search_kwargs={"k": 1}).invoke("the baker")[0].page_content


def test_a_documents_metadata_may_be_called_as_a_memorys_fields_are(alice: Scope) -> None:
    documents = NextMemVectorStore(alice)
    documents.add_texts(["One.", "Two."], [{"id": 1, "session": "a"}, {"id": 2, "session": "b"}])
    (found,) = documents.similarity_search("One.", filter={"id": 2})
    assert (found.page_content, found.metadata) == ("Two.", {"id": 2, "session": "b"})


def test_metadata_comes_back_under_the_names_it_was_given(alice: Scope) -> None:
    documents = NextMemVectorStore(alice)
    metadata = {
        "langchain_version": "1.0",
        "version": "2.0",
        "role": "a",
        "langchain_role": "b",
        "langchain_langchain_role": "c",
    }
    documents.add_texts(["One."], [metadata], ids=["one"])
    assert documents.get_by_ids(["one"])[0].metadata == metadata
    for key, value in metadata.items():
        assert len(documents.similarity_search("One.", filter={key: value})) == 1
    # As older versions wrote it.
    alice.remember("Two.", id="two", metadata={"langchain_session": "s1"})
    assert documents.get_by_ids(["two"])[0].metadata == {"session": "s1"}


def test_two_users_of_one_store_never_meet(memory: NextMem) -> None:
    ann, ben = (NextMemVectorStore(memory, user_id=user) for user in ("ann", "ben"))
    ann.add_texts(["The code is 4711."], ids=["code"])
    assert (ben.similarity_search("code"), ben.get_by_ids(["code"]), ben.delete(["code"])) == ([], [], True)
    ben.delete()
    assert ann.get_by_ids(["code"])[0].page_content == "The code is 4711."
    with pytest.raises(InvalidArgument, match="user_id='ben' names another"):
        NextMemVectorStore(memory.scope("ann"), user_id="ben")


def test_langchains_indexing_writes_what_is_new_and_deletes_what_is_gone(alice: Scope) -> None:
    documents, records = NextMemVectorStore(alice), InMemoryRecordManager("test")
    records.create_schema()

    def sync(*texts: str) -> tuple[int, int, int]:
        found = index(
            [Document(text, metadata={"source": "notes"}) for text in texts],
            records, documents, cleanup="full", source_id_key="source", key_encoder="sha256",
        )  # fmt: skip
        return found["num_added"], found["num_skipped"], found["num_deleted"]

    assert sync("One.", "Two.") == (2, 0, 0)
    assert sync("Two.", "Three.") == (1, 1, 1)
    assert sorted(memory.text for memory in alice.list()) == ["Three.", "Two."]


def test_it_stands_behind_the_memory_of_vector_stores(alice: Scope) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainDeprecationWarning)
        memory = VectorStoreRetrieverMemory(
            retriever=NextMemVectorStore(alice, ranking="hybrid").as_retriever()
        )
    memory.save_context({"input": "My dog is called Rufus."}, {"output": "Good dog!"})
    assert "Rufus" in memory.load_memory_variables({"input": "What is my dog called?"})["history"]


def test_an_embedding_model_makes_a_store_of_its_own() -> None:
    documents = NextMemVectorStore.from_texts(["The vet opens at ten."], DeterministicFakeEmbedding(size=8))
    assert documents.similarity_search("vet", k=1)[0].page_content == "The vet opens at ten."


def test_a_filter_that_is_no_mapping_is_refused(alice: Scope) -> None:
    documents = NextMemVectorStore(alice)
    documents.add_texts(["One."])
    with pytest.raises(InvalidArgument, match="mappings"):
        documents.similarity_search("One.", filter=lambda document: True)  # type: ignore[arg-type]
