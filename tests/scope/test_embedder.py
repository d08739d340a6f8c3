"""A user's embedder: its vectors are what is searched, and it belongs to the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextmem_agents import CodecMismatch, Embedder, InvalidArgument, LatentCodec, NextMem
from nextmem_agents.recall.embedders import as_embedder
from nextmem_agents.recall.ranking import WITH_EMBEDDER

Open = Callable[..., NextMem]
# Words of one meaning share a dimension, which no lexical index knows.
MEANING = {"car": 0, "auto": 0, "fruit": 1, "apple": 1, "sea": 2}


def embed(texts: Sequence[str]) -> list[list[float]]:
    return [
        [float(sum(MEANING.get(w) == d for w in t.lower().split())) + 0.01 for d in range(3)] for t in texts
    ]


def longer(texts: Sequence[str]) -> list[list[float]]:
    return [[*row, 1.0] for row in embed(texts)]


class LikeLangChain:
    model = "meaning-v1"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return embed(texts)

    def embed_query(self, text: str) -> list[float]:
        return embed([text])[0]


class LikeLlamaIndex:
    model_name = "meaning-v2"

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        return embed(texts)

    def get_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]


@pytest.mark.parametrize("embedder", [embed, LikeLangChain(), LikeLlamaIndex(), Embedder(embed, "e")])
@pytest.mark.parametrize("ranking", ["hybrid", "latent"])
def test_what_means_the_same_is_found_without_a_common_word(
    open_fake: Open, embedder: object, ranking: Any
) -> None:
    scope = open_fake(embedder=embedder).scope()
    scope.remember(["the sea", "my auto", "an apple"])
    assert scope.recall("car", k=1, ranking=ranking)[0].text == "my auto"
    parts = {part.name: part for part in scope.recall("car", k=1, ranking=ranking)[0].explain().parts}
    words, meaning = WITH_EMBEDDER["lexical"], WITH_EMBEDDER["latent"]
    expected = meaning / (words + meaning) if ranking == "hybrid" else 1.0
    assert parts["latent"].weight == pytest.approx(expected, abs=1e-5)
    assert parts["latent"].value == pytest.approx(1.0, abs=0.01)


def test_the_frameworks_own_embedders_are_taken(open_fake: Open) -> None:
    core = pytest.importorskip("langchain_core.embeddings", reason="needs langchain-core")
    index = pytest.importorskip("llama_index.core.embeddings", reason="needs llama-index-core")
    fake = core.DeterministicFakeEmbedding(size=6)
    assert (as_embedder(fake).name, as_embedder(fake).size) == ("DeterministicFakeEmbedding", 6)
    mock = as_embedder(index.MockEmbedding(embed_dim=5))
    assert (mock.name, mock.size) == ("MockEmbedding", 5)
    scope = open_fake(embedder=fake).scope()
    scope.remember(["one", "two"])
    assert scope.recall("two", k=1, ranking="latent")[0].text == "two"


def test_opening_with_another_embedder_is_an_error_that_names_both(open_fake: Open, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    with open_fake(folder, embedder=LikeLangChain()) as memory:
        memory.scope().remember("my auto")
    for other, name in [(LikeLlamaIndex(), "LikeLlamaIndex(meaning-v2)"), (longer, "longer"), (None, "fake")]:
        with pytest.raises(CodecMismatch) as raised:
            open_fake(folder, embedder=other)
        assert "LikeLangChain(meaning-v1)" in str(raised.value)
        assert name in str(raised.value)
    with open_fake(folder, embedder=LikeLangChain()) as memory:
        assert memory.scope().recall("car", k=1, ranking="latent")[0].score == pytest.approx(1.0, abs=0.01)


def test_a_folder_of_the_codecs_own_vectors_is_not_opened_with_an_embedder(
    open_fake: Open, tmp_path: Path
) -> None:
    open_fake(tmp_path / "m").close()
    with pytest.raises(CodecMismatch, match=r"LikeLangChain\(meaning-v1\)"):
        open_fake(tmp_path / "m", embedder=LikeLangChain())


def test_the_payload_in_chroma_knows_its_embedder_too(open_fake: Open, tmp_path: Path) -> None:
    with open_fake(tmp_path / "m", embedder=embed, payload="chroma") as memory:
        memory.scope().remember(["the sea", "my auto"])
        assert memory.scope().recall("car", k=1)[0].text == "my auto"
    with pytest.raises(CodecMismatch, match="embed"):
        open_fake(tmp_path / "m", payload="chroma")


def test_migrating_embeds_the_exact_text_anew(open_fake: Open) -> None:
    source, target = open_fake(), open_fake(embedder=embed)
    source.scope("ann").remember(["the sea", "my auto"], id=["a", "b"])
    assert source.migrate_to(target).migrated == 2
    assert target.scope("ann").recall("car", k=1, ranking="latent")[0].id == "b"
    back = open_fake()
    assert target.migrate_to(back).migrated == 2
    assert back.scope("ann").recall("my auto", k=1, ranking="latent")[0].id == "b"


def test_an_import_is_embedded_as_this_memory_embeds(codec: LatentCodec, tmp_path: Path) -> None:
    with (
        NextMem.open(":memory:", codec=codec) as own,
        NextMem.open(":memory:", codec=codec, embedder=embed) as embedded,
        NextMem.open(":memory:", codec=codec) as again,
    ):
        own.scope("ann").remember(["the sea", "my auto"], id=["a", "b"])
        own.scope("ann").export(tmp_path / "own")
        assert embedded.scope("ann").import_(tmp_path / "own") == 2
        assert embedded.scope("ann").recall("car", k=1, ranking="latent")[0].id == "b"
        embedded.scope("ann").export(tmp_path / "embedded")
        again.scope("ann").import_(tmp_path / "embedded")
        before = {record.id: record.vectors for record in own._store.dump("ann")}
        after = {record.id: record.vectors for record in again._store.dump("ann")}
        for id_, vectors in before.items():
            np.testing.assert_allclose(vectors, after[id_], atol=1e-6)


def test_long_texts_have_a_vector_per_chunk(codec: LatentCodec) -> None:
    with NextMem.open(":memory:", codec=codec, embedder=embed) as memory:
        scope = memory.scope()
        scope.remember(["sea " * 140 + "car", "sea " * 3])
        assert scope.recall("auto", k=1, ranking="latent")[0].record.n_chunks > 1


def test_rebuilding_the_index_keeps_the_embedders_vectors(open_fake: Open, tmp_path: Path) -> None:
    memory = open_fake(tmp_path / "m", embedder=embed)
    memory.scope().remember(["the sea", "my auto"])
    assert memory.rebuild() == 2
    assert memory.scope().recall("car", k=1, ranking="latent")[0].text == "my auto"
    assert memory.verify().sound


@pytest.mark.parametrize(
    ("embedder", "message"),
    [
        ("text-embedding-3-small", "a LangChain Embeddings"),
        (lambda texts: embed(texts), r"Embedder\(function, name="),
    ],
)
def test_what_is_no_embedder_is_one_clear_error(open_fake: Open, embedder: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        open_fake(embedder=embedder)


@pytest.mark.parametrize(
    "given",
    [
        lambda texts: [[1.0]] * (len(texts) + 1),
        lambda texts: [1.0] * len(texts),
        lambda texts: [[float("nan")] * 3] * len(texts),
        lambda texts: [["a"] * 3] * len(texts),
        lambda texts: [[1.0] * (3 + len(text)) for text in texts],
    ],
)
def test_an_embedder_that_gives_nonsense_writes_nothing(open_fake: Open, given: Any) -> None:
    broken = Embedder(given, "broken", dimension=3)
    scope = open_fake(embedder=broken).scope()
    with pytest.raises(InvalidArgument, match="'broken'"):
        scope.remember(["one", "three"])
    assert scope.count() == 0
