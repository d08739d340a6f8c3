"""Texts to reconstruct: from benchmark files and plain ones, whole or cut to a length."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.locomo import load_locomo
from nextmem_agents.evaluation.longmemeval import ListedSession, content_of, listed_sessions
from nextmem_agents.text_files import open_text
from nextmem_agents.training.corpus import read_texts

WHOLE = "whole"
"""The length of texts as they are, longer ones cut to their first chunk."""

_PLAIN = (".txt", ".md", ".jsonl", ".jsonl.xz")


@dataclass(frozen=True)
class Domain:
    """Texts of one kind.

    Attributes:
        name: what the table calls it.
        texts: as a memory would be given them: a turn, a paragraph, an article.
        stretches: longer runs of the same, to be cut to a number of tokens: a conversation's sessions with their
            speakers' names, else the texts themselves. None where cutting makes no sense.
    """

    name: str
    texts: tuple[str, ...]
    stretches: tuple[str, ...] = ()

    def of(self, codec: LatentCodec, length: int | str, limit: int) -> list[str]:
        """Up to ``limit`` different texts: ``"whole"``, or of exactly ``length`` tokens.

        They are drawn from all over the file, the same at every call.
        """
        if isinstance(length, str):
            return first_chunks(codec, _shuffled(self.texts), limit)
        return of_length(codec, _shuffled(self.stretches), length, length, limit)


def read_domain(path: Path) -> Domain:
    """The texts of a file.

    Raises:
        DataError: the file is missing, holds no text, or is of no known structure.
    """
    texts, stretches = tuple(texts_of(path)), tuple(stretches_of(path))
    if not texts:
        raise DataError(f"{path} holds no text")
    return Domain(path.name.split(".")[0], texts, stretches)


def texts_of(path: Path) -> Iterator[str]:
    """Texts of a file: LoCoMo's or LongMemEval's turns, SQuAD's or HotpotQA's paragraphs, RACE's articles, or the
    texts of a ``.txt``, ``.md``, ``.jsonl`` or ``.jsonl.xz`` file.

    Formats are told apart by their structure; ``.xz`` is read directly.

    Raises:
        DataError: the file is missing or of no known structure.
    """
    if path.name.endswith(_PLAIN):
        yield from read_texts(path)
        return
    try:
        yield from _texts_of_json(path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not of the structure that its first item has: {error!r}") from error


def _texts_of_json(path: Path) -> Iterator[str]:
    data, first = _json(path)
    if "conversation" in first:
        for conversation in load_locomo(path):
            yield from (turn.text for turn in conversation.turns if turn.text)
    elif "data" in first:
        for article in first["data"]:
            yield from (paragraph["context"] for paragraph in article["paragraphs"])
    elif "article" in first:
        yield from (item["article"] for item in data)
    elif "context" in first:
        for item in data:
            yield from ("".join(body) if isinstance(body, list) else body for _, body in item["context"])
    elif _is_longmemeval(first):
        for session in _longmemeval_sessions(path, data):
            yield from (text for turn in session.turns if (text := content_of(turn)))
    else:
        raise DataError(
            f"{path}: neither LoCoMo, LongMemEval, SQuAD, HotpotQA nor RACE; or give a .txt or .jsonl file"
        )


def stretches_of(path: Path) -> Iterator[str]:
    """The same texts where they are long; of conversations, whole sessions, a line ``Name: text`` to a turn.

    Raises:
        DataError: as :func:`texts_of`.
    """
    if not path.name.endswith(_PLAIN):
        data, first = _json(path)
        if "conversation" in first:
            for conversation in load_locomo(path):
                for session in conversation.sessions:
                    yield "\n".join(f"{turn.speaker}: {turn.text}" for turn in session.turns if turn.text)
            return
        if _is_longmemeval(first):
            for listed in _longmemeval_sessions(path, data):
                said = [(turn, text) for turn in listed.turns if (text := content_of(turn))]
                yield "\n".join(f"{str(turn.get('role', 'user')).title()}: {text}" for turn, text in said)
            return
    yield from texts_of(path)


def _is_longmemeval(first: Mapping[str, Any]) -> bool:
    return "sessions" in first or "haystack_sessions" in first


def _longmemeval_sessions(path: Path, data: Sequence[Any]) -> Iterator[ListedSession]:
    for i, item in enumerate(data):
        yield from listed_sessions(item, f"{path}[{i}]")


def of_length(codec: LatentCodec, texts: Iterable[str], low: int, high: int, limit: int) -> list[str]:
    """Up to ``limit`` different texts of ``low`` to ``high`` tokens; of a longer one, its first ``high`` tokens."""
    chosen: dict[str, None] = {}
    for text in texts:
        ids = codec.tokenizer.encode([text])[0]
        if len(ids) > high:
            # A cut inside a character, or one that would be tokenised otherwise, leaves another length.
            text = codec.tokenizer.to_bytes(ids[:high]).decode("utf-8", "ignore")
        if text and low <= codec.count_tokens(text) <= high:
            chosen[text] = None
        if len(chosen) == limit:
            break
    return list(chosen)


def first_chunks(codec: LatentCodec, texts: Iterable[str], limit: int) -> list[str]:
    """Up to ``limit`` different texts, of each as much as a chunk holds."""
    chosen: dict[str, None] = {}
    for text in texts:
        for chunk in codec.chunk(text)[:1]:
            chosen[chunk] = None
        if len(chosen) == limit:
            break
    return list(chosen)


def _shuffled(texts: Iterable[str]) -> list[str]:
    # In a file's own order the first texts are often of one article or one conversation.
    order = list(texts)
    random.Random(0).shuffle(order)  # noqa: S311 - a sample, not a secret
    return order


def _json(path: Path) -> tuple[Any, dict[str, Any]]:
    """The file's JSON, and its first object."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with open_text(path) as file:
            data = json.load(file)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    first = data[0] if isinstance(data, list) and data else data
    return data, first if isinstance(first, dict) else {}
