"""Next-token pretraining of a small Qwen3: the backbone on which the two LoRA stages can be shown end to end.

    nextmem train language-model --data texts/ --output runs/lm --export backbones/small

The result is a folder as transformers has it (``config.json``, ``model.safetensors``, ``tokenizer.json``), as
good a backbone for ``nextmem train stage-1`` as Qwen3-8B's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from nextmem_agents.codec import checkpoint, tokens
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import CheckpointError, InvalidArgument
from nextmem_agents.training import loop, passages, run_state, settings
from nextmem_agents.training.corpus import END_OF_TEXT, read_records, train_tokenizer
from nextmem_agents.training.held_out import held_out_texts, without_held_out
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.muon import Muon
from nextmem_agents.training.run_state import writing

_TOKENIZER_TEXTS = 20_000


@dataclass(frozen=True)
class LanguageModelConfig(LoopConfig):
    """A small Qwen3 and its pretraining, besides what :class:`LoopConfig` documents.

    Attributes:
        hidden_size, intermediate_size, layers, heads, key_value_heads, head_dim: Qwen3's; the head is tied.
        rope_theta: base of the rotary positions.
        vocabulary: size of the byte-level BPE that is trained on the data …
        tokenizer_from: … unless this names a codec or folder whose tokenizer is used.
        window: tokens per row.
        repeated_share: share of windows that hold one passage over and over. A language model learns to copy
            (induction) from what repeats in its data, the skill that stage 1 aligns; in a corpus of a few million
            tokens too little does.
        muon_learning_rate: of the weight matrices, under Muon; ``learning_rate`` is of all else, under AdamW.
    """

    steps: int = 4000
    learning_rate: float = 3e-3
    decay_share: float = 0.6
    hidden_size: int = 256
    intermediate_size: int = 640
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 4
    head_dim: int = 64
    rope_theta: float = 10_000.0
    vocabulary: int = 2048
    tokenizer_from: str = ""
    window: int = 128
    repeated_share: float = 0.3
    muon_learning_rate: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 8 or self.layers < 1 or self.heads % self.key_value_heads:
            raise InvalidArgument(
                "window is at least 8, layers at least 1, heads a multiple of key_value_heads"
            )


class LanguageModel(nn.Module):
    """The next-token loss of a causal language model."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, rows: loop.Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean cross-entropy over all tokens but each row's first, in nats."""
        ids = torch.from_numpy(np.stack(rows)).to(self.model.device)
        logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        right = (logits.argmax(-1) == ids[:, 1:]).float().mean()
        return loss, {"accuracy": right, "tokens": torch.tensor(float(ids[:, 1:].numel()))}


def build(config: LanguageModelConfig, vocabulary: int) -> LanguageModel:
    """The model with random weights, a function of the seed."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    described = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        head_dim=config.head_dim,
        rope_theta=config.rope_theta,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=1 / math.sqrt(config.hidden_size) / 2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Qwen3ForCausalLM(described)
    model.config.name_or_path = ""
    if config.gradient_checkpointing:
        loop.checkpoint_activations(model)
    return LanguageModel(model.train())


def optimizers(module: LanguageModel, config: LanguageModelConfig) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices, AdamW for embeddings and norms."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in module.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    return [
        Muon(matrices, lr=config.muon_learning_rate, momentum=0.95, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def prepare(config: LanguageModelConfig, data: Path, run: Path) -> None:
    """Make the run's tokenizer and token arrays, where it has none."""
    paths = passages.find_texts(data, config.sources)
    corpus = run / CORPUS
    path = corpus / tokens.FILE
    if not path.is_file():
        if config.tokenizer_from:
            source = (checkpoint.find(config.tokenizer_from) / tokens.FILE).read_text(encoding="utf-8")
        else:
            source = train_tokenizer(_sample(paths, config), config.vocabulary).to_str()
        with writing(path):
            corpus.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
    passages.prepare(paths, corpus, CodecTokenizer.load(corpus), config.held_out)


def _sample(paths: list[Path], config: LanguageModelConfig) -> Iterator[str]:
    """The first texts of each file; merges are stable long before all of a large corpus."""
    for path in paths:
        yield from islice(without_held_out(read_records(path), config.held_out), _TOKENIZER_TEXTS)


def train_language_model(config: LanguageModelConfig, data: Path, run: Path) -> float | None:
    """Pretrain until ``config.steps``, going on from what ``run`` holds.

    Returns:
        Mean loss per held-out token in nats; None in processes other than the first, or without held-out text.

    Raises:
        DataError: a file is missing, malformed or empty.
        CheckpointError: ``run`` belongs to other settings, or cannot be written.
    """
    process = loop.accelerator(config)
    if process.is_main_process:
        loop.claim(run, config)
        prepare(config, data, run)
    process.wait_for_everyone()
    tokenizer = Tokenizer.from_file(str(run / CORPUS / tokens.FILE))
    end = end_of_text(tokenizer)
    drawn = passages.Passages(run / CORPUS)
    module = build(config, tokenizer.get_vocab_size())

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        return [
            drawn.window(rng, config.window, end, config.repeated_share) for _ in range(config.batch_size)
        ]

    loop.train(process, module, optimizers(module, config), config, run, draw, "language model")
    return held_out_loss(module, run, config) if process.is_main_process else None


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the token that closes a document: ours, or Qwen's.

    Raises:
        CheckpointError: the tokenizer has neither.
    """
    for content in (END_OF_TEXT, "<|endoftext|>"):
        if (found := tokenizer.token_to_id(content)) is not None:
            return int(found)
    raise CheckpointError(f"the tokenizer has neither {END_OF_TEXT} nor <|endoftext|>; give another")


@torch.inference_mode()
def held_out_loss(module: LanguageModel, run: Path, config: LanguageModelConfig) -> float | None:
    """Mean loss in nats per token of held-out documents, each cut to the window."""
    texts = held_out_texts(run / CORPUS)
    random.Random(0).shuffle(texts)  # they stand by source
    rows = CodecTokenizer.load(run / CORPUS).encode(texts[: config.evaluate_texts])
    module.model.eval()
    total, count = 0.0, 0
    for row in rows:
        ids = np.array(row[: config.window])
        if len(ids) > 1:
            loss, _ = module([ids], 0)
            total, count = total + float(loss) * (len(ids) - 1), count + len(ids) - 1
    module.model.train()
    return total / count if count else None


def export_language_model(run: Path, folder: Path) -> None:
    """Write a run's last state as transformers has it, in float32.

    Raises:
        CheckpointError: the run has no state, or ``folder`` exists and is not empty.
    """
    config = settings.load(LanguageModelConfig, run / loop.CONFIG_FILE)
    tokenizer = (run / CORPUS / tokens.FILE).read_text(encoding="utf-8")
    module = build(config, Tokenizer.from_str(tokenizer).get_vocab_size())
    if run_state.load(run, module) == 0:
        raise CheckpointError(f"{run} holds no training state; train first")
    checkpoint.new_folder(folder)
    with writing(folder):
        module.model.save_pretrained(folder)
        (folder / tokens.FILE).write_text(tokenizer, encoding="utf-8")
