"""What is read from files: every text as it stands there, under an id that is the same each time."""

from __future__ import annotations

import gzip
import json
import lzma
import tracemalloc
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents import DataError
from nextmem_agents.corpus.documents import (
    Document,
    as_rows,
    batches,
    from_rows,
    read_documents,
    sources,
)


def read(path: Path, **options: str) -> list[Document]:
    return [*read_documents(sources([path]), **options)]  # type: ignore[arg-type]


def test_paragraphs_lines_and_files_are_kept_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffOne,\r\n  two\u00a0.\r\n\r\n\r\nThree\tfour \n".encode())
    assert [d.text for d in read(tmp_path)] == ["One,\r\n  two\u00a0.", "Three\tfour "]
    assert [d.text for d in read(tmp_path, split="lines")] == ["One,", "  two\u00a0.", "Three\tfour "]
    assert [d.text for d in read(tmp_path, split="file")] == [
        "One,\r\n  two\u00a0.\r\n\r\n\r\nThree\tfour \n"
    ]


def test_a_json_line_brings_its_own_fields(tmp_path: Path) -> None:
    row = {
        "id": 7, "body": "text", "session": "s", "role": "user", "occurred_at": "2024-05-02T12:00:00+00:00",
        "metadata": {"year": 2024},
    }  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps("a string") + '\n{"body": " "}\n')
    first, second = read(tmp_path, text_field="body")
    when = datetime(2024, 5, 2, 12, tzinfo=timezone.utc)
    assert first == Document("text", "7", "a.jsonl#1", "s", "user", when, {"year": 2024})
    assert (second.text, second.derived_from) == ("a string", "a.jsonl#3")


def test_ids_depend_on_the_place_within_the_corpus_and_on_the_text_alone(tmp_path: Path) -> None:
    for folder in ("here", "there/deeper"):
        (tmp_path / folder / "in").mkdir(parents=True)
        (tmp_path / folder / "in" / "a.txt").write_text("same\n\nsame\n\nother")
    here, there = read(tmp_path / "here"), read(tmp_path / "there" / "deeper")
    assert here == there
    assert len({d.id for d in here}) == 3
    assert {d.session for d in here} == {"in/a.txt"}
    (tmp_path / "here" / "in" / "a.txt").write_text("same\n\nsame\n\nchanged")
    changed = read(tmp_path / "here")
    assert [a.id == b.id for a, b in zip(here, changed, strict=True)] == [True, True, False]


@pytest.mark.parametrize(("ending", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_compressed_files_are_read(tmp_path: Path, ending: str, opener: object) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    with opener(path, "wt") as file:  # type: ignore[operator]
        file.write('"one"\n"two"\n')
    assert [d.text for d in read(path)] == ["one", "two"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl, line 2: no JSON"),
        ("[1]", "line 2: neither a string nor an object"),
        ('{"body": "x"}', "--text-field"),
        ('{"text": "x", "id": [1]}', "an id is a string"),
        ('{"text": "x", "role": 1}', "role is a string"),
        ('{"text": "x", "metadata": {"a": []}}', "metadata 'a' is of type list"),
        ('{"text": "x", "metadata": {"role": "x"}}', "line 2: "),
        ('{"text": "x", "metadata": {"a": NaN}}', "line 2: metadata"),
        ('{"text": "x", "session": ""}', "line 2: session"),
        (f'{{"text": "x", "id": "{"i" * 300}"}}', "line 2: a memory id"),
        ("[" * 200_000, "line 2: no JSON"),
        ('{"text": "x", "occurred_at": "soon"}', "ISO 8601"),
        ('{"text": "\\ud800"}', "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('"good"\n' + line + "\n")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert message in str(error.value)


def test_what_cannot_be_read_is_named_before_anything_is(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for path, message in ((tmp_path / "b.txt", "no file or folder"), (tmp_path / "a.pdf", "give .txt")):
        with pytest.raises(DataError, match=message):
            sources([path])
    with pytest.raises(DataError, match=r"no file that ends in"):
        sources([tmp_path])
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="no UTF-8"):
        read(tmp_path / "c.txt")


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for number in range(10_000):
            file.write(json.dumps(f"Text number {number}, which is not very long.") + "\n")
    tracemalloc.start()
    n = sum(len(batch) for batch in batches(read_documents(sources([tmp_path])), 256))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 10_000
    assert peak < 2_000_000


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    st.lists(
        st.tuples(texts, st.none() | texts, st.dictionaries(texts, st.booleans() | st.integers() | texts))
    ),
    st.none() | st.datetimes(timezones=st.just(timezone.utc)),
)
def test_documents_travel_as_rows(
    given: list[tuple[str, str | None, dict[str, object]]], when: datetime
) -> None:
    found = [Document(text, text, "a#1", role, role, when, metadata) for text, role, metadata in given]  # type: ignore[arg-type]
    assert from_rows(as_rows(found)) == found
