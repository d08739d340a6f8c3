"""The benchmark examples run offline, on the packaged conversation and on a file."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest

from tests.evaluation import test_longmemeval
from tests.evaluation.tiny_study import write_locomo

LOCOMO = ["locomo_agent", "llama_index_locomo"]


@pytest.mark.parametrize("name", [*LOCOMO, "longmemeval_agent"])
def test_they_run_on_the_packaged_conversation(
    name: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_path(f"examples/{name}.py")["main"](codec=str(tiny_folder))
    printed = capsys.readouterr().out
    assert "| nextmem |" in printed
    assert "| none |" in printed


@pytest.mark.parametrize("name", LOCOMO)
def test_they_run_on_a_file_of_locomo(
    name: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_locomo(tmp_path, "one", "two")
    run_path(f"examples/{name}.py")["main"](str(data), str(tiny_folder))
    printed = capsys.readouterr().out
    assert "| nextmem |" in printed
    if name == "locomo_agent":
        assert "Where does Rufus see the vet?\n  -> Rufus sees the vet in Porto on Friday." in printed
        assert "evidence D2:1; recalled of it: D2:1" in printed


def test_longmemeval_runs_on_a_file_with_a_judge(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = test_longmemeval.write(tmp_path, test_longmemeval.published())
    run_path("examples/longmemeval_agent.py")["main"](str(data), str(tiny_folder), judge="extractive")
    assert "judged right" in capsys.readouterr().out
