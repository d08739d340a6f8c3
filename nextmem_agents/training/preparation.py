"""``nextmem prepare``: from what people have to training files, without repeats and without evaluation text."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from nextmem_agents.errors import DataError
from nextmem_agents.text_files import open_text
from nextmem_agents.training.duplicates import Duplicates, Overlap, words_of
from nextmem_agents.training.raw_texts import ENDINGS, RawText, normalised, raw_texts

MAX_CHARACTERS = 2000
"""Longer texts are split, so that one sentence of an evaluation set does not cost a whole book."""

_ENDS = (re.compile(r"\n"), re.compile(r"[.!?。！？]['\")\]]*\s"), re.compile(r"\s"))


@dataclass(frozen=True)
class Prepared:
    """What became of one file.

    Attributes:
        file: its name.
        texts: texts found in it, after splitting long ones.
        kept: those that were written.
        words: words in those.
        exact_duplicates: texts of the same words as one before, of this file or an earlier one.
        near_duplicates: texts that share most of their word 5-grams with one before.
        evaluation_overlap: texts that share 13 words in a row with an evaluation file, or are one of its texts.
    """

    file: str
    texts: int
    kept: int
    words: int
    exact_duplicates: int
    near_duplicates: int
    evaluation_overlap: int


def prepare(
    files: Sequence[Path],
    output: Path,
    evaluation: Sequence[Path] = (),
    similarity: float = 0.8,
    done: Callable[[Path], None] | None = None,
) -> list[Prepared]:
    """Write ``NAME.jsonl.xz`` for each file: a JSON object ``{"text", "source", "kind"}`` to a line.

    Duplicates are looked for over all files in the order given; the first of several is kept. A file is written
    completely or not at all.

    Args:
        files: plain text, chat logs, JSON or JSON Lines (see :func:`~.raw_texts.raw_texts`).
        output: folder of training files, made if need be; nothing in it is overwritten.
        evaluation: files to keep out of training; of JSON, every string in them.
        similarity: see :class:`~.duplicates.Duplicates`.
        done: called with each file that was finished.

    Raises:
        DataError: a file is missing, unreadable (with the line's number) or holds no text; nothing of it is left
            once evaluation text and duplicates are gone; an output exists; or the disk is full.
        InvalidArgument: ``similarity`` is not in 0 … 1.
    """
    targets = _targets(files, output)
    overlap = Overlap(text for path in evaluation for text in evaluation_strings(path))
    seen = Duplicates(similarity)
    reports = []
    for path, target in targets.items():
        reports.append(_prepare_file(path, target, overlap, seen))
        if done is not None:
            done(path)
    return reports


def _targets(files: Sequence[Path], output: Path) -> dict[Path, Path]:
    if not files:
        raise DataError(f"give at least one file to prepare ({', '.join(ENDINGS)})")
    targets: dict[Path, Path] = {}
    for path in files:
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        target = output / f"{path.name.split('.')[0]}.jsonl.xz"
        if target in targets.values():
            raise DataError(f"two files would become {target}; rename one")
        if target.exists():
            raise DataError(f"{target} exists; give another folder, or remove it")
        targets[path] = target
    return targets


def _prepare_file(path: Path, target: Path, overlap: Overlap, seen: Duplicates) -> Prepared:
    counts = dict.fromkeys(("texts", "kept", "words", "exact_duplicates", "near_duplicates"), 0)
    counts["evaluation_overlap"] = 0
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(partial, "wt", encoding="utf-8", preset=6) as file:
            for piece in (piece for raw in raw_texts(path) for piece in split(raw)):
                words = words_of(piece.text)
                counts["texts"] += 1
                if overlap.found_in(words):
                    counts["evaluation_overlap"] += 1
                elif seen.is_exact(words):
                    counts["exact_duplicates"] += 1
                elif seen.is_near(words):
                    counts["near_duplicates"] += 1
                else:
                    counts["kept"] += 1
                    counts["words"] += len(words)
                    record = {"text": piece.text, "source": path.name, "kind": piece.kind}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if not counts["kept"]:
            raise DataError(_why_empty(path, counts))
        partial.rename(target)
    except OSError as error:
        raise DataError(f"{target} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return Prepared(file=path.name, **counts)


def _why_empty(path: Path, counts: dict[str, int]) -> str:
    if not counts["texts"]:
        return f"{path} holds no text"
    dropped = ", ".join(
        f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n and name != "texts"
    )
    return f"nothing is left of {path}: {dropped}"


def split(raw: RawText, limit: int = MAX_CHARACTERS) -> Iterator[RawText]:
    """Pieces of at most ``limit`` characters, cut after lines, else sentences, else words, else anywhere.

    Examples:
        >>> [piece.text for piece in split(RawText("One two. Three four.", "text"), limit=12)]
        ['One two.', 'Three four.']
    """
    rest = raw.text.strip()
    while len(rest) > limit:
        cut = next((ends[-1] for end in _ENDS if (ends := _ends(end, rest, limit))), limit)
        yield RawText(rest[:cut].strip(), raw.kind)
        rest = rest[cut:].strip()
    if rest:
        yield RawText(rest, raw.kind)


def _ends(end: re.Pattern[str], text: str, limit: int) -> list[int]:
    """Where ``text`` may be cut, in the second half of its first ``limit`` characters."""
    return [
        match.end() for match in end.finditer(text, 0, limit + 1) if limit // 2 <= match.end() <= limit + 1
    ]


def evaluation_strings(path: Path) -> Iterator[str]:
    """Every text of an evaluation file, whatever its structure: each string of JSON, lists of them joined, too.

    Raises:
        DataError: a missing file, another ending, or a line that cannot be read.
    """
    if path.name.endswith((".txt", ".md")):
        yield from (raw.text for raw in raw_texts(path))
        return
    if not path.is_file():
        raise DataError(f"there is no evaluation file {path}")
    try:
        with open_text(path) as file:
            if ".jsonl" in path.suffixes:
                for number, line in enumerate(file, 1):
                    try:
                        yield from _strings(json.loads(line)) if line.strip() else ()
                    except ValueError as error:
                        raise DataError(f"{path}, line {number}: no JSON: {error}") from error
            else:
                yield from _strings(json.load(file))
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield normalised(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        if len(value) > 1 and all(isinstance(item, str) for item in value):
            yield normalised(" ".join(value))  # HotpotQA's paragraphs are lists of sentences
        for item in value:
            yield from _strings(item)


def public_sources() -> list[dict[str, str]]:
    """Where openly licensed training text is to be had: name, kind, licence, address, and what is in it.

    Examples:
        >>> sorted(public_sources()[0])
        ['contents', 'kind', 'licence', 'name', 'where']
    """
    text = (resources.files(__package__) / "sources.json").read_text(encoding="utf-8")
    found: list[dict[str, str]] = json.loads(text)
    return found
