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
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.span_reader import MAX_ANSWER, SpanReader
from nextmem_agents.errors import CannotAnswer, InvalidArgument
from nextmem_agents.training import loop
from nextmem_agents.training.facts import facts
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.muon import Muon
from nextmem_agents.training.pairs import Pairs, find_questions, write_pairs
from nextmem_agents.training.run_state import writing

EXAMPLES = "examples.npz"
_BATCH = 512


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


class Reading(nn.Module):
    """The span reader with its loss."""

    def __init__(
        self, codec: LatentCodec, reader: SpanReader, arrays: dict[str, Tensor], config: SpanReaderConfig
    ):
        super().__init__()
        self.reader = reader
        self.codec = codec  # no module: it is neither trained nor saved
        self.arrays, self.config = arrays, config
        self.rms = arrays["latents"][:4096].float().square().mean().sqrt()

    def forward(self, rows: loop.Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean loss over beginnings and ends, and the share of answers marked exactly, among both memories' slots."""
        right, wrong = (torch.from_numpy(part) for part in rows)
        question, asked = _padded(*self._tokens("question", right))
        memory, there = self._slots(torch.cat([right, wrong]))
        memory, question = (F.dropout(x, self.config.dropout, self.training) for x in (memory, question))
        found = self.reader(question.repeat(2, 1, 1), asked.repeat(2, 1), memory, there)
        logits = [torch.cat([x[: len(right)], x[len(right) :]], dim=1) for x in found]
        spans = self.arrays["spans"][right]
        targets = [spans[:, 0], spans[:, 1] - 1]
        loss = sum(
            (F.cross_entropy(x, target) for x, target in zip(logits, targets, strict=True)), torch.zeros(())
        )
        hit = [x.argmax(-1) == target for x, target in zip(logits, targets, strict=True)]
        return loss, {"exact": (hit[0] & hit[1]).float().mean(), "tokens": there.sum()}

    def _tokens(self, kind: str, chosen: Tensor) -> tuple[list[Tensor], int]:
        ids, offsets = self.arrays[f"{kind}_ids"], self.arrays[f"{kind}_offsets"]
        head = self.codec.index_head
        assert head is not None  # noqa: S101 - train_span_reader checks it
        rows = [head.tokens[ids[offsets[i] : offsets[i + 1]].long()] for i in chosen.tolist()]
        return rows, head.term_size

    def _slots(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        head = self.codec.index_head
        assert head is not None  # noqa: S101 - train_span_reader checks it
        as_text, size = self._tokens("memory", chosen)
        values, offsets = self.arrays["latents"], self.arrays["latent_offsets"]
        counts = [int(offsets[i + 1] - offsets[i]) for i in chosen.tolist()]
        latents = torch.nn.utils.rnn.pad_sequence(
            [values[offsets[i] : offsets[i + 1]].float() for i in chosen.tolist()], batch_first=True
        )
        latents = latents + torch.randn_like(latents) * self.rms * self.config.noise
        terms, numbers = head.terms(latents, torch.tensor(counts))
        is_text = torch.rand(len(counts)) < self.config.text_share
        rows = [
            text if plain else F.normalize(read[:n], dim=-1)
            for text, read, n, plain in zip(as_text, terms, numbers.tolist(), is_text.tolist(), strict=True)
        ]
        return _padded(rows, size)


def _padded(rows: Sequence[Tensor], size: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).reshape(len(rows), -1, size)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


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
    process = loop.accelerator(config)
    if process.is_main_process:
        loop.claim(run, config)
        _encode_examples(codec, config, data, run)
    process.wait_for_everyone()
    with np.load(run / EXAMPLES) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    torch.manual_seed(config.seed)
    reader = SpanReader(codec.index_head.term_size, config.width, config.blocks)
    module = Reading(codec, reader, arrays, config)
    named = dict(reader.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and min(p.shape) > 1]
    others = [p for name, p in named.items() if not (p.ndim == 2 and min(p.shape) > 1)]
    optimizers = [
        Muon(matrices, config.learning_rate),
        torch.optim.AdamW(others, config.adamw_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    lengths = arrays["memory_offsets"].diff().numpy()

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
    values, counts = [], []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("encoding memories", total=len(drawn))
        for begin in range(0, len(drawn), _BATCH):
            latents = codec.encode_ids([example.memory for example in drawn[begin : begin + _BATCH]])
            for row, length in zip(latents.values, latents.lengths.tolist(), strict=True):
                values.append(row[:length].half().cpu())
                counts.append(length)
            progress.advance(task, len(latents))
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "latents": torch.cat(values).numpy(),
        "latent_offsets": np.cumsum([0, *counts]),
        "spans": np.array([(example.begin, example.end) for example in drawn]),
    }
    for kind, ids in (("question", [e.question for e in drawn]), ("memory", [e.memory for e in drawn])):
        arrays[f"{kind}_ids"] = np.concatenate([np.array(row, dtype=np.int32) for row in ids])
        arrays[f"{kind}_offsets"] = np.cumsum([0, *(len(row) for row in ids)])
    with writing(run / EXAMPLES):
        np.savez(run / "examples.partial.npz", **arrays)  # type: ignore[arg-type]
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
