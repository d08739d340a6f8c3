"""From what people have to what training reads: nothing twice, nothing of an evaluation set, nothing half-written."""

from __future__ import annotations

import errno
import json
import lzma
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.training import preparation
from nextmem_agents.training.corpus import read_texts
from nextmem_agents.training.duplicates import Duplicates, Overlap, words_of
from nextmem_agents.training.preparation import evaluation_strings, prepare, public_sources, split
from nextmem_agents.training.raw_texts import RawText, normalised, raw_texts

LONG = "the grey ferry left the harbour at nine and came back in the evening with fog behind it"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path: Path) -> list[tuple[str, str]]:
    return [(raw.text, raw.kind) for raw in raw_texts(path)]


# -- reading

CHAT = [{"role": "user", "content": "Hi,\nthere"}, {"role": "assistant", "content": "Hello."}]
LINES = "User: Hi, there\nAssistant: Hello."


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "One.\r\n\r\n \nTwo\nlines. \n", [("One.", "text"), ("Two\nlines.", "text")]),
        ("a.md", "\ufeffOne.", [("One.", "text")]),
        ("a.txt", "Ann: Hi\nBob: Yo,\nyou\n\nNote: 1", [("Ann: Hi\nBob: Yo, you", "dialogue"), ("Note: 1", "text")]),
        ("a.json", json.dumps(CHAT), [(LINES, "dialogue")]),
        ("a.json", json.dumps([{"messages": CHAT}, {"conversation": CHAT}]), [(LINES, "dialogue")] * 2),
        ("a.json", json.dumps(["One.", {"text": "Two."}]), [("One.", "text"), ("Two.", "text")]),
        ("a.jsonl", '{"text": "One."}\n\n"Two."\n', [("One.", "text"), ("Two.", "text")]),
        ("a.jsonl", "\n".join(map(json.dumps, [*CHAT, "End."])), [(LINES, "dialogue"), ("End.", "text")]),
        ("a.jsonl", json.dumps({"messages": CHAT}), [(LINES, "dialogue")]),
        ("a.jsonl", json.dumps({"text": LINES, "kind": "dialogue"}), [(LINES, "dialogue")]),
        (
            "a.json",
            json.dumps([{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image"}]},
                        {"role": "tool", "content": None}]),
            [("User: Look", "dialogue")],
        ),
        ("a.json", json.dumps([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]),
         [("Human: Hi\nGpt: Yes", "dialogue")]),
    ],
)  # fmt: skip
def test_every_form_is_read(tmp_path: Path, name: str, content: str, expected: list[tuple[str, str]]) -> None:
    assert texts(write(tmp_path, name, content)) == expected


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl.xz", lzma.compress(b'{"text": "One."}\n'))
    assert texts(path) == [("One.", "text")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"One.\n\nTw\xff.", r"line 3: not UTF-8 \(invalid start byte at byte 2\)"),
        ("a.jsonl", b'{"text": "One."}\n{"text": ', "line 2: no JSON"),
        ("a.jsonl", b'{"text": "One."}\n\n{"txt": "Two."}', 'line 3: neither a text, nor .*"txt"'),
        ("a.jsonl", b'{"role": "user", "content": 7}', "line 1: a message's content is text, not 7"),
        ("a.jsonl", b'"\xff"', "line 1: no JSON"),
        ("a.json", b"[", "is no JSON"),
        ("a.json", b'["One.", {"a": 1}]', "item 1: neither"),
        ("a.jsonl.xz", b"no xz", "after line 0: cannot be read"),
        ("a.csv", b"One.", "give one of .txt, .md"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        texts(write(tmp_path, name, content))


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


# -- splitting


@given(st.text(alphabet="ab .\n", max_size=300), st.integers(5, 60))
def test_splitting_keeps_every_letter_and_the_limit(text: str, limit: int) -> None:
    pieces = [piece.text for piece in split(RawText(text, "text"), limit)]
    assert all(0 < len(piece) <= limit for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_dialogues_are_split_between_turns() -> None:
    text = "\n".join(f"Ann: This is what I said in turn {i}. And more." for i in range(20))
    pieces = list(split(RawText(text, "dialogue"), 200))
    assert len(pieces) > 3
    assert all(line.startswith("Ann: ") for piece in pieces for line in piece.text.split("\n"))


# -- duplicates and overlap


def test_near_duplicates_are_found_and_others_kept() -> None:
    seen = Duplicates()
    words = [f"w{i}" for i in range(100)]
    assert not seen.is_near(words)
    assert seen.is_near(words)
    assert seen.is_near([*words[:99], "other"])
    half = [*words[:50], *(f"v{i}" for i in range(50))]
    assert not seen.is_near(half)
    assert Duplicates(0.3).is_near(words) is False


@pytest.mark.parametrize("similarity", [0, -1, 1.1, float("nan")])
def test_a_similarity_lies_between_0_and_1(similarity: float) -> None:
    with pytest.raises(InvalidArgument, match="similarity"):
        Duplicates(similarity)


def test_thirteen_words_in_a_row_are_an_overlap() -> None:
    held_out = Overlap([LONG, "Only six words are in this."])
    words = words_of(LONG)
    assert held_out.found_in(["before", *words[:13], "after"])
    assert not held_out.found_in(["before", *words[:12], "after"])
    assert held_out.found_in(words_of("only six words are in THIS!"))
    assert not held_out.found_in(words_of("only six words are in this, too"))
    assert not Overlap(["Yes, thanks."]).found_in(["yes", "thanks"])


def test_scripts_without_spaces_overlap_too() -> None:
    sentence = "我姐姐三年来一直住在森林边的一座小房子里"
    assert Overlap([sentence]).found_in(words_of("她说" + sentence[:14]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.json", json.dumps({"data": [{"paragraphs": [{"context": LONG}]}]})),
        ("e.json", json.dumps([{"context": [["T", [LONG[:40], LONG[40:]]]]}])),
        ("e.jsonl", json.dumps({"any": {"key": LONG}})),
        ("e.txt", f"Other.\n\n{LONG}"),
    ],
)
def test_evaluation_text_is_found_whatever_the_files_structure(
    tmp_path: Path, name: str, content: str
) -> None:
    assert Overlap(evaluation_strings(write(tmp_path, name, content))).found_in(words_of(LONG))


# -- the whole


def test_what_is_written_and_what_is_not(tmp_path: Path) -> None:
    a = write(
        tmp_path, "a.txt", f"{LONG} one\n\n{LONG.upper()}, one!\n\nIt says: {LONG}\n\nA note.\n\n:-)\n\n;-)"
    )
    b = write(tmp_path, "b.json", json.dumps([CHAT, "A note."]))
    held_out = write(
        tmp_path,
        "e.txt",
        "and here it says the grey ferry left the harbour at nine and came back in the evening",
    )
    first, second = prepare([a, b], tmp_path / "out", similarity=0.7)
    assert (first.texts, first.kept, first.exact_duplicates, first.near_duplicates) == (6, 4, 1, 1)
    assert (second.texts, second.kept, second.exact_duplicates) == (2, 1, 1)
    with lzma.open(tmp_path / "out" / "a.jsonl.xz", "rt", encoding="utf-8") as file:
        records: list[dict[str, Any]] = [json.loads(line) for line in file]
    assert records[1] == {"text": "A note.", "source": "a.txt", "kind": "text"}
    # Training reads a dialogue whole and turn by turn.
    assert list(read_texts(tmp_path / "out" / "b.jsonl.xz")) == [LINES, "Hi, there", "Hello."]
    [clean] = prepare([a], tmp_path / "clean", [held_out])
    assert (clean.evaluation_overlap, clean.kept) == (3, 3)


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    source = write(
        tmp_path, "a.txt", "\n\n".join(f"{LONG} number {i % 7} {'x' * (i % 3)}" for i in range(40))
    )
    reports = [prepare([source], tmp_path / name) for name in "xy"]
    assert reports[0] == reports[1]
    written = [(tmp_path / name / "a.jsonl.xz").read_bytes() for name in "xy"]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        (" \n\n\t\n", "holds no text"),
        (LONG, "nothing is left of .*1 evaluation overlap"),
    ],
)
def test_nothing_to_train_on_is_an_error_and_leaves_nothing(
    tmp_path: Path, content: str, message: str
) -> None:
    source, held_out = write(tmp_path, "a.txt", content), write(tmp_path, "e.txt", LONG)
    with pytest.raises(DataError, match=message):
        prepare([source], tmp_path / "out", [held_out])
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_overwritten_or_mixed_up(tmp_path: Path) -> None:
    source = write(tmp_path, "a.txt", LONG)
    prepare([source], tmp_path / "out")
    with pytest.raises(DataError, match=r"a\.jsonl\.xz exists"):
        prepare([source], tmp_path / "out")
    with pytest.raises(DataError, match="two files would become"):
        prepare([source, write(tmp_path, "a.md", "Other.")], tmp_path / "new")
    with pytest.raises(DataError, match="no file"):
        prepare([tmp_path / "missing.txt"], tmp_path / "new")
    with pytest.raises(DataError, match="at least one file"):
        prepare([], tmp_path / "new")
    with pytest.raises(DataError, match="no evaluation file"):
        prepare([source], tmp_path / "new", [tmp_path / "missing.json"])
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> object:
        Path(str(args[0])).touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    source = write(tmp_path, "a.txt", LONG)
    monkeypatch.setattr(preparation.lzma, "open", full)
    with pytest.raises(DataError, match=r"could not be written: .*No space left"):
        prepare([source], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_every_public_source_has_a_licence_and_an_address() -> None:
    sources = public_sources()
    assert len(sources) > 15
    for source in sources:
        assert source["where"].startswith("https://") or "built in" in source["where"]
        assert source["licence"]
        assert "NC" not in source["licence"].split(";")[0]


def test_documents_with_an_author_are_no_dialogue_and_conversations_stay_apart(tmp_path: Path) -> None:
    rows = [
        {"text": "First line.\nSecond line.", "author": "Jane"},
        {"text": "Of Paris.", "name": "Paris"},
        {"role": "user", "content": "Hello.", "conversation_id": 1},
        {"role": "assistant", "content": "Hi.", "conversation_id": 1},
        {"role": "user", "content": "Bye.", "conversation_id": 2},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [(raw.text, raw.kind) for raw in raw_texts(tmp_path / "a.jsonl")]
    assert found == [
        ("First line.\nSecond line.", "text"),
        ("Of Paris.", "text"),
        ("User: Hello.\nAssistant: Hi.", "dialogue"),
        ("User: Bye.", "dialogue"),
    ]


def test_evaluation_text_is_known_in_any_normal_form(tmp_path: Path) -> None:
    text = "Le café près de la forêt est ouvert de midi à minuit sauf le dimanche."
    decomposed = unicodedata.normalize("NFD", text)
    (tmp_path / "eval.json").write_text(json.dumps([{"q": decomposed}]))
    assert text in [*evaluation_strings(tmp_path / "eval.json")]
