"""How well latents find passages by themselves, with no word compared: pooled, and by late interaction."""

from __future__ import annotations

import json
import lzma
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nextmem_agents.codec.index_head import late_interaction
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import DataError
from nextmem_agents.evaluation.agent_loop import turn_text
from nextmem_agents.evaluation.locomo import Conversation
from nextmem_agents.recall.ranking import LATE_SHARE
from nextmem_agents.text_files import open_text


@dataclass(frozen=True)
class Collection:
    """Passages, and questions with the numbers of the passages that answer them."""

    passages: list[str]
    questions: list[str]
    relevant: list[set[int]]


@dataclass(frozen=True)
class LatentSearch:
    """One row: means over all questions of all collections.

    Attributes:
        ranking: ``fts5`` (the control: SQLite's BM25 over the words), ``mean`` (cosine of mean latents),
            ``maxsim`` (late interaction of single latents), ``index`` (cosine of the index head's pooled vectors),
            ``terms`` (late interaction of its term vectors), ``both`` (what ``ranking="latent"`` adds up of the two).
        questions: how many.
        hit_5: share of questions with a relevant passage among the first 5.
        recall_5, recall_10: share of the relevant passages among the first 5 and 10.
    """

    ranking: str
    questions: int
    hit_5: float
    recall_5: float
    recall_10: float


def squad_collection(path: Path, limit: int = 500) -> Collection:
    """``limit`` paragraphs of a SQuAD file (``.json`` or ``.json.xz``), spread evenly, one question about each.

    Raises:
        DataError: the file is missing, not SQuAD's structure, or has too few paragraphs.
    """
    try:
        with open_text(path) as file:
            articles = json.load(file)["data"]
        found = [
            (p["context"], p["qas"][0]["question"]) for a in articles for p in a["paragraphs"] if p["qas"]
        ]
    except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path} is no SQuAD file: {error}") from error
    if len(found) < limit:
        raise DataError(f"{path} has {len(found)} paragraphs with questions, and {limit} are asked for")
    chosen = [found[i * len(found) // limit] for i in range(limit)]
    return Collection([c for c, _ in chosen], [q for _, q in chosen], [{i} for i in range(limit)])


def conversation_collection(conversation: Conversation) -> Collection:
    """A conversation's turns with their speakers, and its questions of categories 1 to 4 that name evidence."""
    turns = [turn for turn in conversation.turns if turn.text or turn.caption]
    numbers = {turn.id: i for i, turn in enumerate(turns)}
    asked = [q for q in conversation.questions if q.category != 5 and any(e in numbers for e in q.evidence)]
    return Collection(
        [f"{turn.speaker}: {turn_text(turn)}" for turn in turns],
        [q.text for q in asked],
        [{numbers[e] for e in q.evidence if e in numbers} for q in asked],
    )


def evaluate(
    collections: Sequence[Collection], codec: LatentCodec, done: Callable[[int], None] | None = None
) -> list[LatentSearch]:
    """Search every collection by its latents in each way; what is stored goes through the codec's quantisation.

    Args:
        collections: with questions.
        codec: the codec.
        done: called with the number of passages of each collection that was read.

    Raises:
        DataError: there is no question.
    """
    total = sum(len(c.questions) for c in collections)
    if not total:
        raise DataError("there is no question to score")
    sums: dict[str, Tensor] = {}
    for collection in collections:
        for ranking, scores in _scores(collection, codec):
            found = torch.stack(
                [_measure(row, r) for row, r in zip(scores, collection.relevant, strict=True)]
            )
            sums[ranking] = sums.get(ranking, torch.zeros(3)) + found.sum(0)
        if done is not None:
            done(len(collection.passages))
    return [LatentSearch(name, total, *(value / total).tolist()) for name, value in sums.items()]


def _measure(scores: Tensor, relevant: set[int]) -> Tensor:
    # What shares no word has no score, and is not found.
    first = [i for i in scores.topk(min(10, len(scores))).indices.tolist() if scores[i] > -torch.inf]
    five, ten = relevant & set(first[:5]), relevant & set(first)
    return torch.tensor([float(bool(five)), len(five) / len(relevant), len(ten) / len(relevant)])


def _scores(collection: Collection, codec: LatentCodec) -> Iterator[tuple[str, Tensor]]:
    """Each way's name, and its scores [questions, passages]; a passage of several chunks has its best chunk's."""
    parts = [codec.chunk(text) for text in collection.passages]
    owner = torch.tensor([i for i, chunks in enumerate(parts) for _ in chunks])
    passages = codec.encode([chunk for chunks in parts for chunk in chunks])
    passages = codec.dequantize(codec.quantize(passages))
    questions = codec.encode([codec.chunk(q)[0] for q in collection.questions])

    def by_passage(scores: Tensor) -> Tensor:
        out = torch.full((len(scores), len(parts)), -torch.inf)
        return out.scatter_reduce(1, owner.expand(len(scores), -1), scores, "amax")

    yield "fts5", _fts5(collection)
    yield "mean", by_passage(_cosine(codec.pool(questions), codec.pool(passages)))
    yield "maxsim", by_passage(late_interaction(*_directions(questions), *_directions(passages)))
    if codec.index_head is not None:
        index = by_passage(codec.index_vectors(questions) @ codec.index_vectors(passages).T)
        terms = by_passage(codec.late_interaction(questions, passages))
        yield "index", index
        yield "terms", terms
        yield "both", LATE_SHARE * terms + (1 - LATE_SHARE) * index


def _fts5(collection: Collection) -> Tensor:
    scores = torch.full((len(collection.questions), len(collection.passages)), -torch.inf)
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE VIRTUAL TABLE passages USING fts5(text, tokenize='porter unicode61')")
        sql.executemany("INSERT INTO passages(rowid, text) VALUES (?, ?)", enumerate(collection.passages))
        for i, question in enumerate(collection.questions):
            match = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", question))
            for row, rank in sql.execute("SELECT rowid, rank FROM passages WHERE passages MATCH ?", (match,)):
                scores[i, row] = -rank
    return scores


def _directions(latents: Latents) -> tuple[Tensor, Tensor]:
    return F.normalize(latents.values, dim=-1), latents.lengths


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
