"""Texts out of every benchmark's file, and cut to an exact number of tokens."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import LatentCodec
from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
from nextmem_agents.evaluation.texts import first_chunks, of_length, read_domain, stretches_of, texts_of

STORY = "The ferry left late because the fog would not lift. " * 20
FILES: dict[str, tuple[Any, list[str]]] = {
    "squad": ({"data": [{"paragraphs": [{"context": "One."}, {"context": "Two."}]}]}, ["One.", "Two."]),
    "hotpotqa": ([{"context": [["Title", ["One. ", "Two."]], ["Other", "Three."]]}], ["One. Two.", "Three."]),
    "race": ([{"article": "One."}, {"article": "Two."}], ["One.", "Two."]),
    "longmemeval": (
        [
            {
                "sessions": [
                    {"turns": [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}]}
                ]
            }
        ],
        ["One.", "Two."],
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("compressed", [False, True])
def test_each_benchmark_is_told_by_its_structure(tmp_path: Path, name: str, compressed: bool) -> None:
    content, texts = FILES[name]
    path = tmp_path / ("file.json.xz" if compressed else "file.json")
    data = json.dumps(content).encode()
    path.write_bytes(lzma.compress(data) if compressed else data)
    assert list(texts_of(path)) == texts
    joined = "User: One.\nAssistant: Two." if name == "longmemeval" else "\n".join(texts)
    assert "\n".join(stretches_of(path)) == joined
    assert read_domain(path).name == "file"


def test_conversations_are_read_by_turn_and_by_session() -> None:
    [conversation] = load_locomo(default_conversation())
    turns = list(texts_of(default_conversation()))
    assert turns == [turn.text for turn in conversation.turns]
    sessions = list(stretches_of(default_conversation()))
    assert len(sessions) == len(conversation.sessions)
    assert sessions[0].startswith(f"{conversation.turns[0].speaker}: {conversation.turns[0].text}\n")


def test_plain_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\n\nTwo\nlines.\n")
    assert list(texts_of(tmp_path / "a.txt")) == ["One.", "Two\nlines."]
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n')
    assert list(texts_of(tmp_path / "a.jsonl")) == ["One."]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "neither LoCoMo"), ('{"a": 1}', "neither LoCoMo")],
)
def test_what_is_no_benchmark_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_domain(tmp_path / "a.json")


def test_a_file_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(DataError, match="holds no text"):
        read_domain(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"no file .*missing\.json"):
        read_domain(tmp_path / "missing.json")


@pytest.mark.parametrize("n", [1, 16, 37, 128])
def test_texts_are_cut_to_exactly_so_many_tokens(codec: LatentCodec, n: int) -> None:
    texts = of_length(codec, [STORY, "Too short.", STORY.upper(), STORY], n, n, limit=9)
    assert [codec.count_tokens(text) for text in texts][:2] == [n, n]
    assert texts[0] == STORY[: len(texts[0])]
    assert len(texts) == len(set(texts))


def test_a_cut_never_falls_inside_a_character(codec: LatentCodec) -> None:
    text = "猫が好きです。" * 20
    for n in range(1, 40):
        for cut in of_length(codec, [text], n, n, limit=1):
            assert text.startswith(cut)
            assert codec.count_tokens(cut) == n


def test_whole_texts_end_with_their_first_chunk(codec: LatentCodec) -> None:
    texts = first_chunks(codec, ["Short.", "Short.", STORY, "More."], limit=2)
    assert texts == ["Short.", codec.chunk(STORY)[0]]
    assert codec.count_tokens(texts[1]) <= codec.max_tokens


def test_a_sample_is_the_same_at_every_call_and_from_all_over(codec: LatentCodec, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"Sentence number {i} stands here." for i in range(200)))
    domain = read_domain(path)
    sample = domain.of(codec, "whole", 20)
    assert sample == domain.of(codec, "whole", 20)
    assert set(sample) - set(domain.texts[:100])
    assert set(sample) & set(domain.texts[:100])


def test_longmemeval_is_read_as_published(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "I moved to Lisbon."}, {"role": "assistant", "content": "Nice!"}]
    item = {
        "haystack_session_ids": ["a"],
        "haystack_dates": ["2023/05/21 (Sun) 08:00"],
        "haystack_sessions": [turns],
    }
    (tmp_path / "longmemeval.json").write_text(json.dumps([item]))
    assert [*texts_of(tmp_path / "longmemeval.json")] == ["I moved to Lisbon.", "Nice!"]
    assert [*stretches_of(tmp_path / "longmemeval.json")] == ["User: I moved to Lisbon.\nAssistant: Nice!"]


def test_an_item_of_another_structure_is_named(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [{"text": "One."}]}]}))
    with pytest.raises(DataError, match=r"squad\.json is not of the structure"):
        list(texts_of(tmp_path / "squad.json"))
