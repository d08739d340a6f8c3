"""SQuAD, HotpotQA and LoCoMo or LongMemEval files as benchmarks: whatever a file holds, by its structure."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.benchmark import Benchmark, History, Query, file_hash, locomo_benchmark
from nextmem_agents.evaluation.locomo import Session, Turn
from nextmem_agents.evaluation.longmemeval import longmemeval_benchmark
from nextmem_agents.evaluation.metrics import squad_normalise, token_f1
from nextmem_agents.text_files import open_text

_ANSWERABLE = "questions"


def load_benchmark(path: Path) -> Benchmark:
    """A file's questions over what it says: SQuAD, HotpotQA, LoCoMo or LongMemEval, told apart by their structure.

    A SQuAD article is a history whose memories are its paragraphs; a HotpotQA question brings its own ten.

    Raises:
        DataError: the file is missing, malformed, or of no known structure.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; give a SQuAD, HotpotQA, LoCoMo or LongMemEval file")
    try:
        with open_text(path) as file:
            data = json.load(file)
    except (OSError, ValueError, lzma.LZMAError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error
    first = data[0] if isinstance(data, list) and data else data
    if isinstance(first, dict):
        if "conversation" in first:
            return locomo_benchmark(path)
        if "question_type" in first:
            return longmemeval_benchmark(path)
        try:
            if "data" in first:
                return _squad(path, data)
            if "context" in first and "question" in first:
                return _hotpotqa(path, data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{path}: a question is not of the published form: {error!r}") from error
    raise DataError(f"{path}: neither SQuAD, HotpotQA, LoCoMo nor LongMemEval")


def score(query: Query, reply: str) -> float:
    """SQuAD's token F1 against the best right answer; HotpotQA's is the same."""
    found = squad_normalise(reply).split()
    return max((token_f1(found, squad_normalise(answer).split()) for answer in query.answers), default=0.0)


def _squad(path: Path, data: Any) -> Benchmark:
    histories = []
    for n, article in enumerate(data["data"]):
        turns, queries = [], []
        for p, paragraph in enumerate(article["paragraphs"]):
            turns.append(Turn(f"p{p}", str(article["title"]), paragraph["context"].strip()))
            for q, asked in enumerate(paragraph["qas"]):
                # Offsets or none; SQuAD 2.0 has questions without an answer.
                answers = [a if isinstance(a, str) else a["text"] for a in asked["answers"]]
                if answers:
                    found = tuple(dict.fromkeys(answers))
                    queries.append(
                        Query(f"{n:03d}/{p:03d}/{q:02d}", asked["question"], _ANSWERABLE, found, (f"p{p}",))
                    )
        histories.append(
            History(f"article-{n:03d}", (Session("article", None, tuple(turns)),), tuple(queries))
        )
    return _benchmark("SQuAD", path, histories)


def _hotpotqa(path: Path, data: Any) -> Benchmark:
    histories = []
    for n, item in enumerate(data):
        paragraphs = [
            (title, "".join(body) if isinstance(body, list) else body) for title, body in item["context"]
        ]
        facts = item.get("supporting_facts")
        titles = {title for title, *_ in facts} if facts else set(item.get("supporting_titles") or ())
        turns = [
            Turn(f"p{i}", title, text.strip()) for i, (title, text) in enumerate(paragraphs) if text.strip()
        ]
        if turns:
            evidence = tuple(turn.id for turn in turns if turn.speaker in titles)
            query = Query(f"{n:04d}", item["question"], _ANSWERABLE, (item["answer"],), evidence)
            histories.append(
                History(f"question-{n:04d}", (Session("paragraphs", None, tuple(turns)),), (query,))
            )
    return _benchmark("HotpotQA", path, histories)


def _benchmark(name: str, path: Path, histories: list[History]) -> Benchmark:
    asked = tuple(history for history in histories if history.queries)
    if not asked:
        raise DataError(f"{path} holds no question with an answer")
    return Benchmark(name, path.name, file_hash(path), asked, (_ANSWERABLE,), "token F1", score)
