"""``nextmem encode``; the machinery below it is tested in ``tests/corpus``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.covering import JSON, SUCCESS, covers


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text(
        "# Ferries\n\nThe ferry leaves at nine.\nIt is late.\n\n\nBread is sold out.\n"
    )
    rows = [
        {"id": "x", "text": "She moved to Lisbon.", "role": "user", "metadata": {"year": 2024}},
        "A bare string.",
    ]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "ignored.pdf").write_bytes(b"%PDF")
    return folder


@covers(SUCCESS, "encode")
@covers(JSON, "encode")
def test_encode_remembers_a_folder_once(works: Run, corpus: Path) -> None:
    first = works("encode", corpus, "--scope", "wiki", "--batch-size", 2, "--json").json
    assert (first["read"], first["written"], first["there_before"]) == (5, 5, 0)
    assert first["texts_per_second"] > 0
    said = works("encode", corpus, "--scope", "wiki").out
    assert said.startswith("0 texts written to ")
    assert "5 were there before" in said
    shown = works("show", "x", "--scope", "wiki", "--json").json
    assert (shown["text"], shown["role"], shown["derived_from"]) == (
        "She moved to Lisbon.",
        "user",
        "b.jsonl#1",
    )
    texts = [row["text"] for row in works("list", "--scope", "wiki", "--json").rows]
    assert texts[:2] == ["# Ferries", "The ferry leaves at nine.\nIt is late."]


def test_encode_writes_a_file_that_import_reads(works: Run, corpus: Path) -> None:
    assert works("encode", corpus, "--output", "wiki.jsonl", "--json").json["written"] == 5
    assert works("import", "wiki.jsonl", "--scope", "wiki", "--json").json["memories"] == 5
    assert works("show", "x", "--scope", "wiki", "--raw").out == "She moved to Lisbon."
    # Both ways give the same ids: the corpus is there, whichever way it came.
    assert works("encode", corpus, "--scope", "wiki", "--json").json["there_before"] == 5


def test_encode_takes_the_codec_that_wrote_the_store(
    works: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEXTMEM_CODEC")
    works("remember", "Rex is a dog.", "--scope", "wiki", "--codec", "mini")
    assert works("encode", corpus, "--scope", "wiki", "--json").json["written"] == 5
    assert works("encode", corpus, "--scope", "old", "--workers", 2, "--json").json["written"] == 5
    assert works("stats", "--json").json["codec"] == "mini"
    assert works("show", "x", "--scope", "wiki", "--raw").out == "She moved to Lisbon."
