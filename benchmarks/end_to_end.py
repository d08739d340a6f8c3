"""One turn remembered and one question answered with memories, through each adapter, beside plain text memories.

    python benchmarks/end_to_end.py

The turns and questions are the packaged conversation's. Remembering is one call a turn, durable for ours; recalling is
one call a question that was not asked before, with what the framework makes of it. The controls: LangChain's and
LlamaIndex's vector memories with a sentence embedder (all-MiniLM-L6-v2, 22M parameters, where it is installed), Chroma
alone with the same vectors, and SQLite's FTS5.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document as LlamaDocument
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import ChatMessage

from langchain_nextmem import (
    NextMemChatMessageHistory,
    NextMemMemory,
    NextMemRetriever,
    NextMemStore,
    NextMemVectorStore,
)
from llama_index_nextmem import NextMemMemory as LlamaIndexMemory
from llama_index_nextmem import NextMemRetriever as LlamaIndexRetriever

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.report import write_table
from benchmarks.timing import milliseconds, seconds
from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
from nextmem_agents.evaluation.memories.embedding import Embedder, load_embedder
from nextmem_agents.evaluation.memories.langchain_vectors import LangChainEmbeddings
from nextmem_agents.evaluation.memories.llama_index_vectors import LlamaIndexEmbeddings
from nextmem_agents.recall.lexical import terms

Way = tuple[Callable[[str], object], Callable[[str], object]]
"""What remembers a turn, and what recalls for a question."""


def main() -> None:
    """Measure each way and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--conversation", type=Path, help="a LoCoMo file; by default the packaged conversation"
    )
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--embedder", default="minilm", help="of the controls: minilm, or hash")
    chosen = parser.parse_args()
    conversation = load_locomo(chosen.conversation or default_conversation())[0]
    turns = [turn.text for turn in conversation.turns if turn.text][: chosen.turns]
    questions = [question.text for question in conversation.questions][: chosen.questions + 1]
    codec = LatentCodec.load()
    rows = []
    for name, open_way in {**ours(codec), **controls(load_embedder(chosen.embedder))}.items():
        with open_way() as (remember, recall):
            remember("The first call loads what is loaded once.")
            recall(questions[0])
            written = [seconds(remember, turn) for turn in turns]
            read = [seconds(recall, question) for question in questions[1:]]
        rows.append((name, *(milliseconds(statistics.median(times)) for times in (written, read))))
        print(rows[-1], flush=True)
    write_table(
        __file__,
        "One turn, one question, through each adapter",
        f"Medians over {len(turns)} turns and {len(questions) - 1} questions, k = 5, in milliseconds. Ours encode "
        f"(`{codec.config.name}`) and verify each turn and decode what they recall; a text memory embeds, or only "
        "splits words.",
        ("through", "remember (ms)", "recall (ms)"),
        rows,
    )


def ours(codec: LatentCodec) -> dict[str, Callable[[], Any]]:
    """Each adapter over a store of its own in a folder."""

    def opened(make: Callable[[NextMem], Way]) -> Callable[[], Any]:
        @contextmanager
        def open_way() -> Iterator[Way]:
            with tempfile.TemporaryDirectory() as folder, NextMem.open(folder, codec=codec) as memory:
                yield make(memory)

        return open_way

    def scope(memory: NextMem) -> Way:
        user = memory.scope("user")
        return user.remember, lambda question: user.recall(question, 5).as_prompt()

    def langchain_memory(memory: NextMem) -> Way:
        chain = NextMemMemory(memory=memory, user_id="user")
        return (
            lambda turn: chain.save_context({"input": turn}, {"output": ""}),
            lambda question: chain.load_memory_variables({"input": question}),
        )

    def langchain_history(memory: NextMem) -> Way:
        history = NextMemChatMessageHistory("s1", memory, user_id="user")
        retriever = NextMemRetriever(memory=memory, user_id="user", k=5)
        return lambda turn: history.add_message(HumanMessage(turn)), retriever.invoke

    def langchain_vectors(memory: NextMem) -> Way:
        vectors = NextMemVectorStore(memory, user_id="user")
        return lambda turn: vectors.add_texts([turn]), lambda q: vectors.similarity_search(q, 5)

    def langgraph_store(memory: NextMem) -> Way:
        store = NextMemStore(memory, user_id="user")
        return (
            lambda turn: store.put(("user",), str(hash(turn)), {"text": turn}),
            lambda question: store.search(("user",), query=question, limit=5),
        )

    def llama_index_memory(memory: NextMem) -> Way:
        chat = LlamaIndexMemory.from_defaults(memory.scope("user"))

        def recall(question: str) -> object:
            chat.set([ChatMessage(role="user", content=question)])  # a history that is not remembered
            return chat.get()

        return lambda turn: chat.put(ChatMessage(role="user", content=turn)), recall

    def llama_index_retriever(memory: NextMem) -> Way:
        user = memory.scope("user")
        return user.remember, LlamaIndexRetriever(user, k=5).retrieve

    return {
        "`Scope`": opened(scope),
        "LangChain `NextMemMemory`": opened(langchain_memory),
        "LangChain history and `NextMemRetriever`": opened(langchain_history),
        "LangChain `NextMemVectorStore`": opened(langchain_vectors),
        "LangGraph `NextMemStore`": opened(langgraph_store),
        "LlamaIndex `NextMemMemory`": opened(llama_index_memory),
        "LlamaIndex `NextMemRetriever`": opened(llama_index_retriever),
    }


def controls(embedder: Embedder) -> dict[str, Callable[[], Any]]:
    """Text memories."""

    @contextmanager
    def langchain() -> Iterator[Way]:
        vectors = InMemoryVectorStore(LangChainEmbeddings(embedder))
        yield lambda turn: vectors.add_documents([Document(turn)]), lambda q: vectors.similarity_search(q, 5)

    @contextmanager
    def llama_index() -> Iterator[Way]:
        index = VectorStoreIndex([], embed_model=LlamaIndexEmbeddings(embedder=embedder))
        yield (
            lambda turn: index.insert(LlamaDocument(text=turn)),
            lambda question: index.as_retriever(similarity_top_k=5).retrieve(question),
        )

    @contextmanager
    def chroma() -> Iterator[Way]:
        with tempfile.TemporaryDirectory() as folder:
            client = chromadb.PersistentClient(
                folder, settings=chromadb.config.Settings(anonymized_telemetry=False)
            )
            collection = client.create_collection("turns", embedding_function=None)
            yield (
                lambda turn: collection.upsert(str(hash(turn)), embeddings=embedder([turn]), documents=turn),
                lambda question: collection.query(embedder([question]), n_results=5),
            )
            client.close()

    @contextmanager
    def fts5() -> Iterator[Way]:
        with tempfile.TemporaryDirectory() as folder:
            sql = sqlite3.connect(Path(folder) / "fts.sqlite3", isolation_level=None)
            sql.execute("PRAGMA journal_mode = WAL")
            sql.execute("PRAGMA synchronous = FULL")
            sql.execute("CREATE VIRTUAL TABLE turns USING fts5(text, tokenize = 'porter')")
            select = "SELECT text FROM turns WHERE turns MATCH ? ORDER BY rank LIMIT 5"
            yield (
                lambda turn: sql.execute("INSERT INTO turns VALUES (?)", (turn,)),
                lambda q: sql.execute(select, (" OR ".join(f'"{t}"' for t in terms(q)),)).fetchall(),
            )
            sql.close()

    return {
        f"LangChain `InMemoryVectorStore`, {embedder.name}": langchain,
        f"LlamaIndex `VectorStoreIndex`, {embedder.name}": llama_index,
        f"Chroma alone, {embedder.name}": chroma,
        "SQLite FTS5 alone": fts5,
    }


if __name__ == "__main__":
    main()
