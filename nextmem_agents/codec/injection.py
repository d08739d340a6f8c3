"""Latents inside a prompt: in place of tokens, as input embeddings, for the decoder to answer from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import continue_greedily
from nextmem_agents.codec.tokens import CodecTokenizer

Segment = list[int] | Tensor
"""Part of a prompt: token ids, or latents [L, D]."""


@dataclass(frozen=True)
class AnswerLayout:
    """How a memory and a question make a prompt, and an output an answer.

    Attributes:
        parts: in order, control tokens by name (``<|im_start|>``), text in which ``{question}`` is replaced,
            and ``{memory}`` where the latents go. Text is tokenised as text, so that no question can write a
            control token.
        after: the control token after the latents, before which is [SoD]; None: latents stand alone, and [SoD]
            comes last, where the answer begins.
        clean: the answer in the decoder's output.
        max_question_tokens: the most tokens a question may have.
    """

    parts: tuple[str, ...]
    after: str | None
    clean: Callable[[str], str]
    max_question_tokens: int


MEMORY = "{memory}"
READER = "reader"
_MARKER = "Answer:"


def clean_released(output: str) -> str:
    """What follows the last "Answer:", stripped; if that is nothing, all else without the markers.

    Examples:
        >>> clean_released("x Answer: red Answer: blue ")
        'blue'
        >>> clean_released("red Answer:  ")
        'red '
    """
    *before, last = output.split(_MARKER)
    return (last.strip() or "".join(before)) if before else last


LAYOUTS = {
    # Qwen3's chat template, thinking off, as the released code renders it: the memory is in the first, empty
    # system turn, after the word "system".
    "released": AnswerLayout(
        parts=(
            "<|im_start|>", "system", MEMORY, "\n", "<|im_end|>", "\n",
            "<|im_start|>", "system\nBriefly answer the following question.", "<|im_end|>", "\n",
            "<|im_start|>", "user\nQuestion: {question} Answer:", "<|im_end|>", "\n",
            "<|im_start|>", "assistant\n", "<think>", "\n\n", "</think>", "\n\n",
        ),
        after="<|endoftext|>",
        clean=clean_released,
        # The released code cuts the prompt, without its memory, at 1024 tokens; the rest of it takes about 40.
        max_question_tokens=960,
    ),
    # What nextmem_agents.training.reader trains: memories, question, [SoD].
    READER: AnswerLayout(parts=(MEMORY, "{question}"), after=None, clean=str.strip, max_question_tokens=128),
}  # fmt: skip


def answer_prompt(
    layout: AnswerLayout, tokenizer: CodecTokenizer, config: CodecConfig, question: str, latents: Tensor
) -> list[Segment]:
    """The prompt of one question over latents [L, D].

    Raises:
        InvalidArgument: the question is no string, or has lone surrogates.
        CheckpointError: the tokenizer lacks a control token of the layout.
    """
    if layout.after is None:
        return reader_prompt(config, [latents], tokenizer.encode([question])[0])
    prompt: list[Segment] = []
    for part in layout.parts:
        if part == MEMORY:
            prompt += [[config.start_of_decode], latents, [tokenizer.control(layout.after)]]
        elif part.startswith("<"):
            prompt.append([tokenizer.control(part)])
        else:
            # Not str.format: a question may hold braces.
            prompt += tokenizer.encode([part.replace("{question}", question)])
    return prompt


def reader_prompt(config: CodecConfig, memories: Sequence[Segment], question: list[int]) -> list[Segment]:
    """Memories (latents [L, D], or token ids), a question's token ids, and [SoD]."""
    return [*memories, question, [config.start_of_decode]]


def prompt_positions(config: CodecConfig, prompt: Sequence[Segment]) -> Tensor:
    """Positions of a prompt, int64 [S]: 0, 1, 2 …; with aligned positions a latent takes as many as its
    tokens would.
    """
    stride = (config.tokens_per_latent or 1) if config.positions == "aligned" else 1
    steps = [stride if isinstance(segment, Tensor) else 1 for segment in prompt for _ in range(len(segment))]
    return torch.tensor([0, *steps[:-1]]).cumsum(0)


@torch.inference_mode()
def inject_batch(
    backbone: Backbone, config: CodecConfig, prompts: Sequence[Sequence[Segment]], *, steps: Sequence[int]
) -> list[list[int]]:
    """Greedy continuations of prompts that mix token ids and latents.

    Positions are those of :func:`prompt_positions`. Shorter prompts are padded at the right, behind the mask.

    Args:
        backbone: the model in its decoder role.
        config: the codec's configuration.
        prompts: segments in order; latents of one segment are [L, D], unpadded.
        steps: the most tokens each row may take.

    Returns:
        Token ids of each row, without the end token.
    """
    rows = [torch.cat([embed_segment(backbone, config, segment) for segment in prompt]) for prompt in prompts]
    n = torch.tensor([[len(row)] for row in rows], device=backbone.device)
    embeddings = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    numbered = [prompt_positions(config, prompt) for prompt in prompts]
    positions = torch.nn.utils.rnn.pad_sequence(numbered, batch_first=True).to(backbone.device)
    mask = (torch.arange(embeddings.shape[1], device=backbone.device) < n).long()
    cache = backbone.new_cache(embeddings.shape[1] + max(steps))
    hidden = backbone.hidden(embeddings, mask, positions, cache)
    last = hidden[torch.arange(len(rows), device=backbone.device), n[:, 0] - 1]
    position = positions.gather(1, n - 1)
    return continue_greedily(backbone, last, position, cache, steps=steps, ends=config.ends)


def embed_segment(backbone: Backbone, config: CodecConfig, segment: Segment) -> Tensor:
    """Input embeddings [L, D] of one segment, in the backbone's dtype; latents are scaled as the codec demands."""
    if isinstance(segment, Tensor):
        return (segment.to(backbone.device) * config.latent_scale).to(backbone.dtype)
    return backbone.embed(torch.tensor(segment, dtype=torch.int64, device=backbone.device))
