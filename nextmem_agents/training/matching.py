"""Training the index head: InfoNCE between questions and the passages they ask about, on a codec's finished latents.

    nextmem train index-head --codec mini --data TEXTS --output runs/head --export FOLDER

The latents stay as they are, and are encoded once: a step costs milliseconds, so that a question can be told from a
hundred passages at a time, for thousands of steps. (In the codec's own training, where a step holds ten pairs, the
same term taught next to nothing in 1.6M tokens.) Half the questions are people's, half made of the passage's words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from nextmem_agents.codec.index_head import IndexHead, late_interaction
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DataError
from nextmem_agents.training import loop, passages
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.pairs import MadeUpQuestions, Pairs, find_questions, write_pairs
from nextmem_agents.training.run_state import writing

LATENTS = "latents.npz"
_BATCH = 512


@dataclass(frozen=True)
class IndexHeadConfig(LoopConfig):
    """Train an index head.

    Attributes:
        batch_size: pairs of a step; the passages of the others are a question's negatives.
        learning_rate: AdamW's.
        terms_per_latent: m.
        term_size: width of a term vector.
        index_size: width of the pooled vector.
        questions: file of questions → weight.
        pairs: how many pairs are encoded.
        made_up_share: share of them whose question is made up.
        shortest, longest: tokens of a passage.
        noise: σ of the noise on passages' latents, in units of their RMS: what is stored is quantised.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 3e-3
    decay_share: float = 0.7
    evaluate_texts: int = 0
    terms_per_latent: int = 4
    term_size: int = 64
    index_size: int = 256
    questions: dict[str, float] = field(
        default_factory=lambda: {"qa_squad_train": 0.88, "qa_nq_oracle": 0.08, "qa_qed": 0.04}
    )
    pairs: int = 40_000
    made_up_share: float = 0.4
    shortest: int = 11
    longest: int = 128
    noise: float = 0.1


@dataclass(frozen=True)
class _Latents:
    """Latents of N texts behind each other: values float16 [ΣL, D], and offsets int64 [N + 1]."""

    values: Tensor
    offsets: Tensor

    def rows(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Padded latents float32 [B, L, D] and their lengths."""
        begin, lengths = self.offsets[chosen], self.offsets[chosen + 1] - self.offsets[chosen]
        place = torch.arange(int(lengths.max()))
        index = (begin[:, None] + place).clamp(max=len(self.values) - 1)
        return self.values[index].float() * (place < lengths[:, None])[..., None], lengths


class Matching(nn.Module):
    """The index head with its two losses: over late interaction, and over pooled vectors."""

    def __init__(self, head: IndexHead, questions: _Latents, texts: _Latents, noise: float):
        super().__init__()
        self.head = head
        self.log_scale = nn.Parameter(torch.tensor([2.5, 2.5]))  # of the two similarities, before the softmax
        self.questions, self.texts, self.noise = questions, texts, noise

    def forward(self, rows: loop.Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """The sum of both losses for the pairs whose numbers ``rows[0]`` holds, and how many come out first."""
        chosen = torch.from_numpy(rows[0])
        questions, question_lengths = self.questions.rows(chosen)
        texts, lengths = self.texts.rows(chosen)
        size = texts.square().mean().sqrt() * self.noise
        texts = texts + torch.randn_like(texts) * size
        asking, _ = self.head(questions)
        answering, _ = self.head(texts)
        m = asking.shape[2]
        late = late_interaction(
            asking.flatten(1, 2), question_lengths * m, answering.flatten(1, 2), lengths * m
        )
        pooled = self.head.pooled(questions, question_lengths) @ self.head.pooled(texts, lengths).T
        target = torch.arange(len(chosen))
        scale = self.log_scale.exp().clamp(max=100)
        loss = F.cross_entropy(late * scale[0], target) + F.cross_entropy(pooled * scale[1], target)
        figures = {
            "late_first": (late.argmax(-1) == target).float().mean(),
            "pooled_first": (pooled.argmax(-1) == target).float().mean(),
            "tokens": lengths.sum() + question_lengths.sum(),
        }
        return loss, figures


def train_index_head(codec: LatentCodec, config: IndexHeadConfig, data: Path, run: Path) -> IndexHead:
    """Train until ``config.steps``, going on from what ``run`` holds.

    Raises:
        DataError: a file is missing, malformed or empty.
        CheckpointError: ``run`` belongs to other settings, or cannot be written.
    """
    process = loop.accelerator(config)
    if process.is_main_process:
        loop.claim(run, config)
        encode_pairs(codec, config, data, run)
    process.wait_for_everyone()
    with np.load(run / LATENTS) as arrays:
        questions, texts = (
            _Latents(torch.from_numpy(arrays[f"{kind}_values"]), torch.from_numpy(arrays[f"{kind}_offsets"]))
            for kind in ("question", "text")
        )
    torch.manual_seed(config.seed)
    head = IndexHead(codec.dim, config.terms_per_latent, config.term_size, config.index_size)
    module = Matching(head, questions, texts, config.noise)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    count = len(texts.offsets) - 1

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        return [rng.choice(count, min(count, config.batch_size), replace=False)]

    loop.train(process, module, [optimizer], config, run, draw, "index head")
    return head.eval().requires_grad_(False)


def encode_pairs(codec: LatentCodec, config: IndexHeadConfig, data: Path, run: Path) -> None:
    """Draw pairs and encode both sides; what ``run`` holds already is used as it is.

    Raises:
        DataError: a file is missing, malformed or empty.
        CheckpointError: the folder cannot be written.
    """
    if (run / LATENTS).is_file():
        return
    drawn = _draw_pairs(codec, config, data, run)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    with Progress() as progress:
        task = progress.add_task("encoding pairs", total=2 * len(drawn))
        for kind, rows in zip(("question", "text"), zip(*drawn, strict=True), strict=True):
            values, offsets = [], [0]
            for begin in range(0, len(rows), _BATCH):
                latents = codec.encode_ids(rows[begin : begin + _BATCH])
                for row, length in zip(latents.values, latents.lengths.tolist(), strict=True):
                    values.append(row[:length].half().cpu())
                    offsets.append(offsets[-1] + length)
                progress.advance(task, len(latents))
            arrays |= {f"{kind}_values": torch.cat(values).numpy(), f"{kind}_offsets": np.array(offsets)}
    with writing(run / LATENTS):
        np.savez(run / "latents.partial.npz", **arrays)  # type: ignore[arg-type]
        (run / "latents.partial.npz").replace(run / LATENTS)


def _draw_pairs(
    codec: LatentCodec, config: IndexHeadConfig, data: Path, run: Path
) -> list[tuple[list[int], list[int]]]:
    tokenizer = codec.tokenizer.tokenizer
    passages.prepare(
        passages.find_texts(data, config.sources), run / CORPUS, codec.tokenizer, config.held_out
    )
    drawn = passages.Passages(run / CORPUS)
    made_up = MadeUpQuestions(tokenizer, np.bincount(drawn.tokens, minlength=tokenizer.get_vocab_size()))
    asked = []
    for name in config.questions:
        target = run / CORPUS / f"{name}.pairs.npz"
        if not target.exists():
            write_pairs(tokenizer, find_questions(data, name), target)
        asked.append(Pairs(target))
    rng = np.random.default_rng(config.seed)
    shares = np.array(list(config.questions.values()))
    found: list[tuple[list[int], list[int]]] = []
    misses = 0
    while len(found) < config.pairs:
        longest = round(np.exp(rng.uniform(np.log(config.shortest), np.log(config.longest))))
        if asked and rng.random() >= config.made_up_share:
            question, text, _ = asked[int(rng.choice(len(asked), p=shares / shares.sum()))].draw(rng, longest)
        else:
            text = drawn.passage(rng, min(config.shortest, longest), longest)
            made = made_up.make(rng, text)
            if made is None:
                misses += 1
                if misses > 10 * config.pairs + 1000:
                    raise DataError(f"{data}: its texts hold too few words to make questions of")
                continue
            question = made
        found.append((question.tolist(), text.tolist()))
    return found
