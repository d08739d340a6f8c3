"""The commands: from arguments to a table, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nextmem_agents.cli import app
from nextmem_agents.errors import DataError, InvalidArgument, NextMemError
from tests.evaluation import test_longmemeval


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_qa_compares_the_ways_of_one_reader(garden: Path, tiny_folder: Path) -> None:
    result = call("qa", garden, "--codec", tiny_folder, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["memory"]: row for row in json.loads(result.stdout)["rows"]}
    assert list(rows) == ["none", "text", "decompress"]
    assert rows["text"]["score"] == rows["decompress"]["score"] > rows["none"]["score"]


def test_locomo_is_an_agent_loop_in_both_frameworks(garden: Path, tiny_folder: Path, tmp_path: Path) -> None:
    for framework in ("langchain", "llama-index"):
        page = tmp_path / f"{framework}.md"
        result = call(
            "locomo", garden, "--codec", tiny_folder, "--framework", framework, "--memories", "nextmem, none",
            "--questions", 2, "--output", tmp_path / framework, "--markdown", page,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "| memory | official F1 |" in result.stdout
        assert "agent, answered by extractive" in page.read_text("utf-8")


def test_longmemeval_is_an_agent_loop_too(tiny_folder: Path, tmp_path: Path) -> None:
    path = test_longmemeval.write(tmp_path, test_longmemeval.published())
    result = call("longmemeval", path, "--codec", tiny_folder, "--memories", "nextmem,none", "--k", 1)
    assert result.exit_code == 0, result.output
    assert "| memory | token F1 |" in result.stdout


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["locomo", "none.json"], DataError, "no such file"),
        (["longmemeval", "none.json"], DataError, "no such file"),
        (["qa", "none.json"], DataError, "there is no file"),
        (["locomo", "--reader-options", "{"], InvalidArgument, "--reader-options takes a JSON object"),
        (["locomo", "--reader-options", "[]"], InvalidArgument, "--reader-options takes a JSON object"),
        (["locomo", "--conversations", "x"], InvalidArgument, "no conversation 'x'"),
        (["locomo", "--judge", "x"], InvalidArgument, "no reader 'x'"),
        (["qa", "--ways", "x"], InvalidArgument, "no way 'x'"),
        (["locomo", "--framework", "x"], InvalidArgument, "no framework 'x'"),
    ],
)
def test_errors_say_what_is_wrong(
    words: list[str], error: type[NextMemError], message: str, tiny_folder: Path
) -> None:
    result = call(*words, "--codec", tiny_folder)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
