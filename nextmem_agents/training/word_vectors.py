"""Training the word vectors that let a question find words it does not hold.

    nextmem train word-vectors --data TEXTS --output runs/words --export related_words.safetensors

A bag of words against another: the vector of a text is the weighted sum of its words' vectors, and InfoNCE tells a
text's partner from those of the others in the batch. There is no network, so that a batch of a thousand pairs costs
some 50 ms on one core.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextmem_agents.recall.related_words import save_related_words
from nextmem_agents.training import loop
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.word_pairs import WordPairs, prepare_words


@dataclass(frozen=True)
class WordVectorsConfig(LoopConfig):
    """Train word vectors.

    Attributes:
        batch_size: pairs of a step; the partners of the others are a text's negatives.
        learning_rate: Adam's.
        words: how many words get a vector, the most frequent ones of the texts.
        size: D, the length of a vector.
        texts: file of texts → how often its sentences are drawn.
        questions: files of questions.
        question_share, neighbour_share: of the pairs drawn; the rest are halves of sentences.
    """

    steps: int = 2000
    batch_size: int = 1024
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    decay_share: float = 0.6
    checkpoint_every: int = 500
    evaluate_texts: int = 0
    words: int = 24_000
    size: int = 96
    texts: dict[str, float] = field(
        default_factory=lambda: {
            "synthetic_persona_chat": 3.0,
            "topical_chat": 2.0,
            "wowpp": 2.0,
            "sgd_accentor": 0.5,
            "taskmaster4": 0.5,
            "qmsum": 1.0,
            "standardebooks": 1.0,
            "squad_contexts": 1.0,
            "wikisplit_wikipedia": 1.0,
            "2wiki_wikipedia": 1.0,
            "nq_oracle_wikipedia": 1.0,
            "qed_wikipedia": 1.0,
            "gum": 1.0,
            "openstax": 0.6,
            "medquad": 0.5,
            "factbook": 0.15,
        }
    )
    questions: tuple[str, ...] = ("qa_squad_train", "qa_nq_oracle", "qa_qed")
    question_share: float = 0.3
    neighbour_share: float = 0.35


class BagsOfWords(nn.Module):
    """Word vectors ``[V, D]`` and how much each word counts, with the loss over pairs of texts."""

    def __init__(self, counts: Tensor, size: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(counts), size) * size**-0.5)
        rarity = (counts.sum() / counts).log() / 8
        self.log_weight = nn.Parameter(rarity.clamp(min=0.3).log())
        self.log_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, rows: loop.Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """The loss of pairs given as (terms, offsets) of either side, and how many partners come out first."""
        first, second = self._texts(*rows[:2]), self._texts(*rows[2:])
        scores = first @ second.T * self.log_scale.exp().clamp(max=60)
        target = torch.arange(len(scores), device=scores.device)
        loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        figures = {
            "first": (scores.argmax(-1) == target).float().mean(),
            "tokens": torch.tensor(len(rows[0]) + len(rows[2]), device=scores.device),
        }
        return loss, figures

    def _texts(self, terms: np.ndarray, offsets: np.ndarray) -> Tensor:
        index = torch.from_numpy(terms).to(self.vectors.device)
        found = F.embedding_bag(
            index,
            self.vectors,
            torch.from_numpy(offsets).to(self.vectors.device),
            mode="sum",
            per_sample_weights=self.log_weight.exp()[index],
        )
        return F.normalize(found, dim=-1)


def train_word_vectors(config: WordVectorsConfig, data: Path, run: Path, export: Path | None) -> None:
    """Train until ``config.steps``, going on from what ``run`` holds; write the words nearest to each to ``export``.

    Raises:
        DataError: a file is missing, malformed or empty.
        CheckpointError: ``run`` belongs to other settings, or cannot be written.
    """
    process = loop.accelerator(config, on_cpu=True)
    if process.is_main_process:
        loop.claim(run, config)
        prepare_words(data, config.texts, config.questions, config.words, run / CORPUS)
    process.wait_for_everyone()
    read = json.loads((run / CORPUS / "words.json").read_text(encoding="utf-8"))
    pairs = WordPairs(run / CORPUS)
    torch.manual_seed(config.seed)
    module = BagsOfWords(torch.tensor(read["counts"], dtype=torch.float32), config.size)
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        drawn = pairs.draw(rng, config.batch_size, config.question_share, config.neighbour_share)
        rows: loop.Rows = []
        for side in zip(*drawn, strict=True):
            offsets = np.cumsum([0, *map(len, side)])[:-1]
            rows += [np.concatenate(side).astype(np.int64), offsets.astype(np.int64)]
        return rows

    loop.train(process, module, [optimizer], config, run, draw, "word vectors")
    if export is not None and process.is_main_process:
        save_related_words(export, read["words"], module.vectors.detach().cpu().numpy())
