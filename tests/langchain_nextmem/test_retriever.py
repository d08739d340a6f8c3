"""NextMemRetriever, with LangChain's own conformance suite."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from langchain_tests.integration_tests import RetrieversIntegrationTests

from langchain_nextmem import NextMemRetriever
from nextmem_agents import EmptyText, NextMem, Scope


class TestConformance(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _fill(self, alice: Scope) -> None:
        alice.remember([f"The train number {n} goes to Lisbon." for n in range(6)], role="user")
        self.alice = alice

    @property
    def retriever_constructor(self) -> type[NextMemRetriever]:
        return NextMemRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": self.alice}

    @property
    def retriever_query_example(self) -> str:
        return "Which train goes to Lisbon?"


WHEN = datetime(2025, 5, 3, 10, 30, tzinfo=timezone.utc)


async def test_a_document_says_all_that_is_known_of_a_memory(alice: Scope) -> None:
    note = alice.remember(
        "I moved to Lisbon.",
        role="user",
        session="s1",
        occurred_at=WHEN,
        metadata={"source": "chat", "score": 7},
    )
    retriever = NextMemRetriever(memory=alice, k=1)
    (document,) = retriever.invoke("Where did I move?")
    assert (document.id, document.page_content) == (note, "I moved to Lisbon.")
    score = document.metadata.pop("score")
    assert 0 < score <= 1
    assert document.metadata == {
        "source": "chat",
        "role": "user",
        "session": "s1",
        "occurred_at": "2025-05-03T10:30:00+00:00",
        "exact": True,
    }
    assert [d.id for d in await retriever.ainvoke("Where did I move?")] == [note]


def test_documents_come_best_first_and_k_can_be_given_with_the_question(alice: Scope) -> None:
    alice.remember([f"The train number {n} goes to Lisbon." for n in range(6)])
    documents = NextMemRetriever(memory=alice).invoke("Where does train number 3 go?")
    assert len(documents) == 5
    scores = [document.metadata["score"] for document in documents]
    assert scores == sorted(scores, reverse=True)
    assert len(NextMemRetriever(memory=alice).invoke("Which train?", k=2)) == 2


def test_where_and_user_narrow_what_is_found(memory: NextMem) -> None:
    memory.scope("alice").remember(["I like tea.", "You like tea."], role=["user", "assistant"])
    memory.scope("bob").remember("I like tea, too.", role="user")
    found = NextMemRetriever(memory=memory, user_id="alice", where={"role": "user"}).invoke("Who likes tea?")
    assert [document.page_content for document in found] == ["I like tea."]


def test_an_empty_question_is_an_error(alice: Scope) -> None:
    with pytest.raises(EmptyText):
        NextMemRetriever(memory=alice).invoke("")


def test_a_misspelt_user_is_never_the_default_one(memory: NextMem) -> None:
    with pytest.raises(ValueError, match="userid"):
        NextMemRetriever(memory=memory, userid="alice")  # type: ignore[call-arg]
