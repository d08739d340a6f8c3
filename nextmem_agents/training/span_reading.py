"""Training the span reader: where in a memory the answer to a question stands, on a codec's finished latents.

    nextmem train span-reader --codec CODEC --data TEXTS --output runs/span-reader --export FOLDER

The codec needs an index head that names tokens. Half of the memories are read from their latents, half as text; beside
each stands another question's memory, in which nothing is to be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import length_mask
from nextmem_agents.codec.span_reader import MAX_ANSWER, SpanReader
from nextmem_agents.errors import CannotAnswer, InvalidArgument
from nextmem_agents.training import loop
from nextmem_agents.training.facts import facts
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.optimizer import muon_and_adamw
from nextmem_agents.training.packed import Packed
from nextmem_agents.training.pairs import Pairs, find_questions, write_pairs
from nextmem_agents.training.run_state import writing

EXAMPLES = "examples.npz"


@dataclass(frozen=True)
class SpanReaderConfig(LoopConfig):
    """Train a span reader.

    Attributes:
        batch_size: questions of a step.
        learning_rate: Muon's, on the matrices.
        adamw_rate: AdamW's, on the rest.
        width, blocks: of the reader.
        dropout: share of a slot's numbers that is set to zero, so that no answer is known by heart.
        questions: file of questions → weight, beside made-up personal facts.
        examples: how many questions are drawn and encoded.
        facts_share: share of them that is about made-up facts.
        text_share: share of the memories that are read as text.
        shortest, longest: tokens of a memory, before a question file's context ends.
        noise: σ of the noise on latents, in units of their RMS.
    """

    steps: int = 600
    batch_size: int = 96
    learning_rate: float = 0.01
    adamw_rate: float = 2e-3
    decay_share: float = 0.7
    evaluate_texts: int = 0
    width: int = 128
    blocks: int = 2
    dropout: float = 0.1
    questions: dict[str, float] = field(
        default_factory=lambda: {"qa_squad_train": 0.94, "qa_nq_oracle": 0.04, "qa_qed": 0.02}
    )
    examples: int = 60_000
    facts_share: float = 0.25
    text_share: float = 0.5
    shortest: int = 16
    longest: int = 128
    noise: float = 0.1


@dataclass(frozen=True)
class _Example:
    """Token ids of a question and a memory, and the first and one past the last token of the answer."""

    question: Sequence[int]
    memory: Sequence[int]
    begin: int
    end: int


@dataclass(frozen=True)
class _Examples:
    """All examples: token ids, the memories' latents, and the answers' spans, int64 [N, 2]."""

    questions: Packed
    memories: Packed
    latents: Packed
    spans: Tensor


class Reading(nn.Module):
    """The span reader with its loss."""

    def __init__(self, head: IndexHead, reader: SpanReader, examples: _Examples, config: SpanReaderConfig):
        super().__init__()
        self.reader = reader
        self.examples, self.config = examples, config
        self._head = [head]  # in a list, so that it is neither trained nor saved
        self._rms = examples.latents.values[:4096].float().square().mean().sqrt()

    def forward(self, rows: loop.Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean loss over beginnings and ends, and the share of answers marked exactly, among both memories' slots."""
        right, wrong = (torch.from_numpy(part) for part in rows)
        question, asked = self._directions(self.examples.questions, right)
        memory, there = self._slots(torch.cat([right, wrong]))
        memory, question = (F.dropout(x, self.config.dropout, self.training) for x in (memory, question))
        found = self.reader(question.repeat(2, 1, 1), asked.repeat(2, 1), memory, there)
        logits = [torch.cat([x[: len(right)], x[len(right) :]], dim=1) for x in found]
        spans = self.examples.spans[right]
        targets = [spans[:, 0], spans[:, 1] - 1]
        loss = sum(
            (F.cross_entropy(x, target) for x, target in zip(logits, targets, strict=True)), torch.zeros(())
        )
        hit = [x.argmax(-1) == target for x, target in zip(logits, targets, strict=True)]
        return loss, {"exact": (hit[0] & hit[1]).float().mean(), "tokens": there.sum()}

    def _directions(self, ids: Packed, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The directions of tokens, padded, and which are there."""
        rows, lengths = ids.rows(chosen)
        return self._head[0].tokens[rows], length_mask(lengths, rows.shape[1])

    def _slots(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Some memories as text, the others as their latents read, padded, and which slots are there."""
        as_text, in_text = self._directions(self.examples.memories, chosen)
        latents, counts = self.examples.latents.rows(chosen)
        noise = torch.randn(latents.shape) * self._rms * self.config.noise
        terms, numbers = self._head[0].terms(latents.float() + noise, counts)
        missing = terms.shape[1] - as_text.shape[1]  # what the last latent has room for behind a text's end
        is_text = torch.rand(len(chosen)) < self.config.text_share
        slots = torch.where(
            is_text[:, None, None], F.pad(as_text, (0, 0, 0, missing)), F.normalize(terms, dim=-1)
        )
        in_latents = length_mask(numbers, terms.shape[1])
        return slots, torch.where(is_text[:, None], F.pad(in_text, (0, missing)), in_latents)


def train_span_reader(codec: LatentCodec, config: SpanReaderConfig, data: Path, run: Path) -> SpanReader:
    """Train until ``config.steps``, going on from what ``run`` holds.

    Raises:
        CannotAnswer: the codec has no index head that names tokens.
        DataError: a file of questions is missing or empty.
        InvalidArgument: memories longer than a chunk.
        CheckpointError: ``run`` belongs to other settings, or cannot be written.
    """
    if codec.index_head is None or not len(codec.index_head.tokens):
        raise CannotAnswer(
            f"codec {codec.config.name!r} has no index head that names tokens, from which a span reader reads; train "
            "one first with `nextmem train index-head`"
        )
    if config.longest > codec.max_tokens:
        raise InvalidArgument(
            f"longest is {config.longest}, and a chunk has at most {codec.max_tokens} tokens"
        )
    process = loop.accelerator(config, on_cpu=True)
    if process.is_main_process:
        loop.claim(run, config, {"codec": codec.fingerprint})
        _encode_examples(codec, config, data, run)
    process.wait_for_everyone()
    with np.load(run / EXAMPLES) as arrays:
        examples = _Examples(
            Packed.read(arrays, "questions"),
            Packed.read(arrays, "memories"),
            Packed.read(arrays, "latents"),
            torch.from_numpy(arrays["spans"]),
        )
    torch.manual_seed(config.seed)
    reader = SpanReader(codec.index_head.term_size, config.width, config.blocks)
    module = Reading(codec.index_head, reader, examples, config)
    optimizers = muon_and_adamw(module, config.learning_rate, config.adamw_rate)
    lengths = examples.memories.offsets.diff().numpy()

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        return _draw_alike(lengths, config.batch_size, rng)

    loop.train(process, module, optimizers, config, run, draw, "span reader")
    return reader.eval().requires_grad_(False)


def _draw_alike(lengths: np.ndarray[Any, Any], n: int, rng: np.random.Generator) -> loop.Rows:
    """Questions whose memories are about as long, which leaves little padding; and for each the memory of another."""
    n = min(n, len(lengths))
    several = rng.choice(len(lengths), min(8 * n, len(lengths)), replace=False)
    several = several[np.argsort(lengths[several], kind="stable")]
    begin = int(rng.integers(len(several) // n)) * n
    right = rng.permutation(several[begin : begin + n])
    return [right, np.roll(right, 1)]


def _encode_examples(codec: LatentCodec, config: SpanReaderConfig, data: Path, run: Path) -> None:
    if (run / EXAMPLES).is_file():
        return
    drawn = _draw_examples(codec, config, data, run / CORPUS)
    memories = [example.memory for example in drawn]
    arrays: dict[str, Any] = {
        **Packed.of([example.question for example in drawn]).arrays("questions"),
        **Packed.of(memories).arrays("memories"),
        **Packed.encoded(codec, memories, "encoding memories").arrays("latents"),
        "spans": np.array([(example.begin, example.end) for example in drawn]),
    }
    with writing(run / EXAMPLES):
        np.savez(run / "examples.partial.npz", **arrays)
        (run / "examples.partial.npz").replace(run / EXAMPLES)


def _draw_examples(codec: LatentCodec, config: SpanReaderConfig, data: Path, folder: Path) -> list[_Example]:
    asked = []
    folder.mkdir(parents=True, exist_ok=True)
    for name in config.questions:
        target = folder / f"{name}.pairs.npz"
        if not target.exists():
            write_pairs(codec.tokenizer.tokenizer, find_questions(data, name), target)
        asked.append(Pairs(target))
    rng = np.random.default_rng(config.seed)
    shares = np.array(list(config.questions.values()))
    found = _fact_examples(
        codec, round(config.examples * (config.facts_share if asked else 1.0)), config.seed
    )
    while len(found) < config.examples:
        pairs = asked[int(rng.choice(len(asked), p=shares / shares.sum()))]
        longest = round(np.exp(rng.uniform(np.log(config.shortest), np.log(config.longest))))
        drawn = pairs.draw(rng, longest)
        if 0 < drawn.end - drawn.begin <= min(MAX_ANSWER, longest):
            found.append(_Example(drawn.question.tolist(), drawn.text.tolist(), drawn.begin, drawn.end))
    return found


def _fact_examples(codec: LatentCodec, count: int, seed: int) -> list[_Example]:
    drawn = list(facts(count, seed))
    encode = codec.tokenizer.tokenizer.encode_batch
    statements = encode([fact.statement for fact in drawn], add_special_tokens=False)
    questions = encode([fact.question for fact in drawn], add_special_tokens=False)
    found = []
    for fact, statement, question in zip(drawn, statements, questions, strict=True):
        at = fact.statement.index(fact.answer)
        inside = [
            i for i, (a, b) in enumerate(statement.offsets) if b > at and a < at + len(fact.answer) and b > a
        ]
        if inside and len(statement.ids) <= codec.max_tokens:
            found.append(_Example(question.ids, statement.ids, inside[0], inside[-1] + 1))
    return found
