"""A run's folder belongs to its settings, keeps every output, and survives a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.run_folder import open_run

SETTINGS = {"k": 5, "reader": {"reader": "extractive"}}


def test_outputs_are_on_disk_when_append_returns(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", SETTINGS) as folder:
        folder.append({"kind": "answer", "reply": "Grüße\nand more"})
        [line] = (tmp_path / "run" / "outputs.jsonl").read_text("utf-8").splitlines()
        assert json.loads(line) == {"kind": "answer", "reply": "Grüße\nand more", "run": folder.sha256[:12]}
    with open_run(tmp_path / "run", dict(reversed(SETTINGS.items()))) as folder:
        assert [record["reply"] for record in folder.records] == ["Grüße\nand more"]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS) as folder:
        folder.append({"id": 1})
    path = tmp_path / "outputs.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        with open_run(tmp_path, SETTINGS) as folder:
            assert [record["id"] for record in folder.records] == [1]
            folder.append({"id": 2})
        with open_run(tmp_path, SETTINGS) as folder:
            assert [record["id"] for record in folder.records] == [1, 2]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS):
        pass
    with (
        pytest.raises(DataError, match=r"other settings \(k: 5, not 10\); give those again"),
        open_run(tmp_path, {**SETTINGS, "k": 10}),
    ):
        pass


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, SETTINGS),
        pytest.raises(DataError, match="another process is writing"),
        open_run(tmp_path, SETTINGS),
    ):
        pass


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outputs.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="outputs without settings"), open_run(tmp_path, SETTINGS):
        pass
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(DataError, match="cannot be read as a run's settings"), open_run(tmp_path, SETTINGS):
        pass
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="cannot be used as a run's folder"), open_run(file, SETTINGS):
        pass


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS) as folder:
        folder.append({"id": 1})
    path = tmp_path / "outputs.jsonl"
    path.write_text("oops\n" + path.read_text())
    with pytest.raises(DataError, match="line 1: not JSON"), open_run(tmp_path, SETTINGS):
        pass
