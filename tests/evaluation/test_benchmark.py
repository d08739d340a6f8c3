"""Every data set becomes histories and questions with its own official score."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.evaluation.benchmark import file_hash, locomo_benchmark
from nextmem_agents.evaluation.locomo import default_conversation
from tests.evaluation.tiny_study import write_locomo


def test_locomo_keeps_its_categories_and_puts_the_adversarial_one_apart(garden: Path) -> None:
    benchmark = locomo_benchmark(garden)
    assert benchmark.categories == ("multi-hop", "temporal", "single-hop", "adversarial")
    assert benchmark.apart == {"adversarial"}
    assert benchmark.evidence_of == "turn"
    assert [query.id for query in benchmark.histories[0].queries] == [f"garden/{i:03d}" for i in range(5)]
    assert benchmark.histories[0].queries[4].answers == ()


def test_scores_are_the_official_ones(garden: Path) -> None:
    benchmark = locomo_benchmark(garden)
    cost, _, _, both, adversarial = benchmark.histories[0].queries
    assert benchmark.score(cost, "It cost 40 pounds") == pytest.approx(2 * (2 / 4) / (1 + 2 / 4))
    assert benchmark.score(both, "a dog, a quince") == 1.0
    assert benchmark.score(adversarial, "a tree") == 0.0
    assert benchmark.score(adversarial, "No information available.") == 1.0


def test_a_cut_keeps_whole_histories_and_spreads_questions(tmp_path: Path) -> None:
    benchmark = locomo_benchmark(write_locomo(tmp_path, "one", "two", "three"))
    assert [history.id for history in benchmark.cut(["three", "one"]).histories] == ["three", "one"]
    assert benchmark.cut(limit=2).n_queries == 10
    few = benchmark.cut(queries=2)
    assert [query.id for query in few.histories[0].queries] == ["one/000", "one/002"]
    assert few.categories == ("temporal", "single-hop")
    assert benchmark.cut(queries=99).n_queries == 15
    with pytest.raises(InvalidArgument, match="no conversation 'four'; it has one, two, three"):
        benchmark.cut(["four"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        locomo_benchmark(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        file_hash(tmp_path)


def test_the_packaged_conversation_is_a_benchmark() -> None:
    benchmark = locomo_benchmark(default_conversation())
    assert benchmark.n_queries == 20
    assert all(query.evidence for query in benchmark.histories[0].queries)
