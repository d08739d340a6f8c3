"""The reader: a third, small adapter on the decoder that answers short questions from latents, or from text.

    nextmem train reader --codec mini --data TEXTS --output runs/reader --export FOLDER

A prompt is memories, the question, [SoD]; then comes the answer, to the end-of-text token. The memories are latents
for two thirds of the examples and tokens for the rest, so that one reader tells what injection costs against text.
Wrong memories stand among them, in any order: it has to find the right one. The decoder's weights, the encoder's and
the latents stay as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextmem_agents.codec.injection import Segment, prompt_positions, reader_prompt
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import MissingExtra
from nextmem_agents.training import loop, run_state
from nextmem_agents.training.facts import facts
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.muon import Muon
from nextmem_agents.training.pairs import Pairs, find_questions, write_pairs

_FACTS = 40_000
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class ReaderConfig(LoopConfig):
    """Train a reader.

    Attributes:
        batch_size: questions of a step.
        learning_rate: Muon's, on the adapter's matrices.
        questions: file of questions → weight, beside made-up personal facts; none: facts alone.
        facts_share: share of questions that are about made-up facts.
        text_share: share of questions whose memories are given as tokens.
        most_memories: memories of a question, drawn from 1 to this.
        most_tokens: tokens of all memories together.
        most_answer: tokens of an answer; questions with a longer one are left out.
        rank, alpha: of the LoRA adapter.
    """

    steps: int = 1000
    batch_size: int = 48
    learning_rate: float = 0.01
    decay_share: float = 0.7
    evaluate_texts: int = 0
    questions: dict[str, float] = field(default_factory=lambda: {"qa_squad_train": 1.0})
    facts_share: float = 0.5
    text_share: float = 0.33
    most_memories: int = 3
    most_tokens: int = 64
    most_answer: int = 16
    rank: int = 64
    alpha: int = 64


@dataclass(frozen=True)
class Example:
    """Token ids of memories, question and answer; ``as_text``: the memories are given as tokens."""

    memories: list[list[int]]
    question: list[int]
    answer: list[int]
    as_text: bool


class Examples:
    """Draws examples from question files and made-up facts."""

    def __init__(self, codec: LatentCodec, config: ReaderConfig, data: Path, folder: Path):
        """Tokenise the question files of ``data`` into ``folder``; what that holds is used as it is.

        Raises:
            DataError: a file of questions is missing or empty.
        """
        self.config = config
        self._pairs = []
        for name in config.questions:
            target = folder / f"{name}.pairs.npz"
            if not target.exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_pairs(codec.tokenizer.tokenizer, find_questions(data, name), target)
            self._pairs.append(Pairs(target))
        self._shares = np.array(list(config.questions.values()), dtype=float)
        made = [
            part for f in facts(_FACTS, config.seed) for part in (f.statement, f.question, " " + f.answer)
        ]
        ids = codec.tokenizer.encode(made)
        self._facts = [ids[i : i + 3] for i in range(0, len(ids), 3)]

    def draw(self, rng: np.random.Generator) -> Example:
        """One example: a memory that answers the question, and others."""
        left = self.config.most_tokens
        right, question, answer = self._one(rng, left)
        memories = [right]
        left -= len(right)
        for _ in range(int(rng.integers(self.config.most_memories))):
            other, _, _ = self._one(rng, left)
            if len(other) > left:
                break
            memories.append(other)
            left -= len(other)
        order = rng.permutation(len(memories))
        as_text = bool(rng.random() < self.config.text_share)
        return Example([memories[i] for i in order], question, answer, as_text)

    def _one(self, rng: np.random.Generator, room: int) -> tuple[list[int], list[int], list[int]]:
        if not self._pairs or rng.random() < self.config.facts_share:
            statement, question, answer = self._facts[int(rng.integers(len(self._facts)))]
            return list(statement), list(question), list(answer)
        while True:
            pairs = self._pairs[int(rng.choice(len(self._pairs), p=self._shares / self._shares.sum()))]
            pair = pairs.draw(rng, max(16, int(min(room, 2 ** rng.uniform(4.5, 7)))))
            if 0 < len(pair.answer) <= self.config.most_answer:
                return pair.text.tolist(), pair.question.tolist(), pair.answer.tolist()


class Reader(nn.Module):
    """The decoder with a new adapter, over prompts made by the finished codec."""

    def __init__(self, codec: LatentCodec, model: Any):
        super().__init__()
        self.model = model
        self.codec = codec  # no module: it is neither trained nor saved

    def forward(self, rows: Sequence[Example], step: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean loss over the answers' tokens and the end tokens, and the share predicted right."""
        embeddings, mask, positions, labels = batch_of(self.codec, rows)
        inner = self.model.get_base_model()
        hidden = inner.model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions)
        asked = labels != -100
        logits = F.linear(hidden.last_hidden_state[asked], inner.lm_head.weight).float()
        right = (logits.argmax(-1) == labels[asked]).float().mean()
        return F.cross_entropy(logits, labels[asked]), {"accuracy": right, "tokens": mask.sum()}


def batch_of(codec: LatentCodec, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings [B, S, D], mask, positions and labels (-100 where none), each int64 [B, S]."""
    flat = [memory for example in examples if not example.as_text for memory in example.memories]
    latents = codec.dequantize(codec.quantize(codec.encode_ids(flat))) if flat else None
    unpadded = iter(
        []
        if latents is None
        else [v[:n] for v, n in zip(latents.values, latents.lengths.tolist(), strict=True)]
    )
    rows, labels, positions = [], [], []
    for example in examples:
        memories: list[Segment] = [m if example.as_text else next(unpadded) for m in example.memories]
        answer = [*example.answer, codec.config.end_of_text]
        prompt = [
            *reader_prompt(codec.config, memories, example.question),
            *([answer[:-1]] if answer[:-1] else []),
        ]
        embedded = [
            s * codec.config.latent_scale if isinstance(s, Tensor) else codec.decoder.embed(torch.tensor(s))
            for s in prompt
        ]
        rows.append(torch.cat(embedded))
        positions.append(prompt_positions(codec.config, prompt))
        labels.append(torch.tensor([-100] * (len(rows[-1]) - len(answer)) + answer))
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        # Encoded in inference mode: a copy of them may take part in autograd.
        pad(rows, batch_first=True).clone(),
        pad([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True),
        pad(positions, batch_first=True),
        pad(labels, batch_first=True, padding_value=-100),
    )


def train_reader(codec: LatentCodec, config: ReaderConfig, data: Path, run: Path, export: Path) -> None:
    """Train until ``config.steps``, going on from what ``run`` holds; write the adapter into ``export`` as PEFT does.

    Raises:
        DataError: a file of questions is missing or empty.
        CheckpointError: ``run`` belongs to other settings, or cannot be written.
        MissingExtra: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("training a reader needs peft: pip install 'nextmem-agents[train]'") from error
    process = loop.accelerator(config, on_cpu=True)
    if process.is_main_process:
        loop.claim(run, config, {"codec": codec.fingerprint})
    process.wait_for_everyone()
    examples = Examples(codec, config, data, run / CORPUS)
    torch.manual_seed(config.seed)
    base = copy.deepcopy(codec.decoder.model).requires_grad_(False)
    with warnings.catch_warnings():
        # PEFT asks transformers 5 for a property by its former name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = get_peft_model(
            base, LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=_TARGETS)
        )
    module = Reader(codec, adapted)
    optimizer = Muon(run_state.trained(module).values(), config.learning_rate)

    def draw(step: int, rng: np.random.Generator) -> Any:  # noqa: ARG001
        return [examples.draw(rng) for _ in range(config.batch_size)]

    loop.train(process, module, [optimizer], config, run, draw, "reader")
    if process.is_main_process:
        module.model.save_pretrained(export)
