"""With a server every worker writes for itself; on a Ray cluster the nodes do."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.corpus.bulk import Bulk, Totals
from nextmem_agents.corpus.documents import sources
from nextmem_agents.corpus.encoding import Recipe
from tests.conftest import CODEC
from tests.store.server.chroma_server import ChromaServer

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
RECIPE = Recipe(str(Path(CODEC).absolute()) if "/" in CODEC else CODEC, "wiki")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    with ChromaServer(tmp_path_factory.mktemp("chroma")) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for part in range(2):
        lines = [json.dumps(f"Fact {i} of part {part}.") + "\n" for i in range(6)]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))
    return tmp_path


def test_a_corpus_gets_into_a_server_once(server: ChromaServer, files: Path, codec: LatentCodec) -> None:
    settings = {"collection": f"test-{uuid.uuid4().hex}"}
    plan = Bulk(sources([files]), RECIPE, batch_size=4)
    assert [*plan.into_server(server.url, settings)][-1] == Totals(12, 12, 0)
    # Two processes come after one: what is there is not written again, whoever wrote it.
    (files / "2.jsonl").write_text('"A fact of part 2."\n')
    more = Bulk(sources([files]), RECIPE, workers=2, batch_size=4)
    assert [*more.into_server(server.url, settings)][-1] == Totals(13, 1, 12)
    with NextMem.open(server.url, codec=codec, **settings) as memory:
        assert memory.scope("wiki").count() == 13
        assert memory.scope("wiki").recall("A fact of part 2?", 1)[0].text == "A fact of part 2."


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore::ResourceWarning"
)
def test_ray_encodes_on_its_nodes(
    server: ChromaServer, files: Path, codec: LatentCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="half a gigabyte that is installed on its own: nextmem-agents[ray]")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    settings = {"collection": f"test-{uuid.uuid4().hex}"}
    plan = Bulk(sources([files]), RECIPE, batch_size=4)
    assert [*plan.on_ray(server.url, settings)][-1] == Totals(12, 12, 0)
    assert [*plan.on_ray(server.url, settings)][-1] == Totals(12, 0, 12)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"  # nothing of ours is reported to anyone
    with NextMem.open(server.url, codec=codec, **settings) as memory:
        texts = {m.text for m in memory.scope("wiki").list()}
    assert texts == {f"Fact {i} of part {part}." for i in range(6) for part in range(2)}
