"""The span reader: the answer to a question as a stretch of a memory's tokens, found in its latents or in its text.

A memory is a row of *slots*, one for each token: the term vectors that the index head reads from its latents, or, of a
text, the directions of its tokens. Both are points of one space, so that one reader takes either. It marks where an
answer begins and where it ends (Seo et al., "Bidirectional Attention Flow", arXiv 1611.01603; Yu et al., "QANet",
arXiv 1804.09541, of which this is a small relative). Memories are read one by one and their marks compared with each
other, so that any number of them can stand beside a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nextmem_agents.codec.index_head import IndexHead
from nextmem_agents.codec.injection import Segment
from nextmem_agents.codec.latents import length_mask
from nextmem_agents.errors import CheckpointError

FILE = "span_reader.safetensors"
MAX_ANSWER = 16
"""Tokens of the longest answer."""

_HEADS = 4
_SHIFTS = 2  # slots before and behind whose match with the question a slot sees, besides its own


class SpanReader(nn.Module):
    """Attention between question and memory, then blocks of convolution, attention and a feed-forward layer.

    Args:
        term_size: width of a slot.
        width: of all that follows.
        blocks: how many.
    """

    def __init__(self, term_size: int, width: int = 128, blocks: int = 2):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(term_size, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.near = nn.Conv1d(width, width, 3, padding=1)
        self.fuse = nn.Linear(4 * width + 2 * _SHIFTS + 1, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.start = nn.Linear(width, 1)
        self.end = nn.Linear(width, 1)

    def forward(
        self, question: Tensor, asked: Tensor, memory: Tensor, there: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How likely each slot begins and ends the answer.

        Args:
            question: directions of the question's tokens [B, T, term_size].
            asked: which of them are no padding, bool [B, T].
            memory: slots [B, S, term_size]; only their direction counts.
            there: which of them are no padding, bool [B, S].

        Returns:
            Two logits for each slot, float32 [B, S] each; -inf in the padding.
        """
        question, memory = F.normalize(question, dim=-1), F.normalize(memory, dim=-1)
        cosine = (memory @ question.mT).masked_fill(~asked[:, None], -1)
        same = cosine.amax(-1).masked_fill(~there, 0)
        padded = F.pad(same, (_SHIFTS, _SHIFTS))
        matches = torch.stack([padded[:, i : i + same.shape[1]] for i in range(2 * _SHIFTS + 1)], dim=-1)
        words, slots = self._read(question, asked), self._read(memory, there)
        alike = (slots @ words.mT) / words.shape[-1] ** 0.5 + 8 * cosine
        found = alike.masked_fill(~asked[:, None], -1e4).softmax(-1) @ words
        whole = (words * asked[..., None]).sum(1, keepdim=True) / asked.sum(1)[:, None, None].clamp(min=1)
        x = self.fuse(torch.cat([slots, found, slots * found, slots * whole, matches], dim=-1))
        for block in self.blocks:
            x = block(x, there)
        x = self.norm(x)
        begin, end = self.start(x)[..., 0], self.end(x)[..., 0]
        return begin.masked_fill(~there, -torch.inf), end.masked_fill(~there, -torch.inf)

    def _read(self, slots: Tensor, there: Tensor) -> Tensor:
        x: Tensor = self.embed(slots) * there[..., None]
        return (x + F.silu(self.near(x.mT).mT)) * there[..., None]

    def save(self, folder: Path) -> None:
        """Write ``span_reader.safetensors``, in bfloat16."""
        tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> SpanReader:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or its shapes do not fit together.
        """
        from safetensors import SafetensorError

        path = folder / FILE
        try:
            tensors = load_file(path)
            hidden, term_size = tensors["embed.0.weight"].shape
            blocks = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
            reader = cls(term_size, hidden // 4, blocks)
            reader.load_state_dict({k: v.float() for k, v in tensors.items()})
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} cannot be read as a span reader: {error}") from error
        return reader.eval().requires_grad_(False)


class _Block(nn.Module):
    """Depthwise convolution, self-attention and a feed-forward layer, each added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.pointwise = nn.Linear(width, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        inner = self.norms[0](x) * there[..., None]
        x = x + self.pointwise(F.silu(self.depthwise(inner.mT).mT))
        q, k, v = self.qkv(self.norms[1](x)).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        thought: Tensor = self.down(F.silu(self.up(self.norms[2](x))))
        return x + thought


def best_span(begin: Tensor, end: Tensor) -> tuple[int, int, int]:
    """Row, first slot and one past the last of the likeliest answer among rows of logits [B, S].

    >>> best_span(torch.tensor([[0.0, 4.0, 0.0]]), torch.tensor([[1.0, 0.0, 3.0]]))
    (0, 1, 3)
    """
    slots = begin.shape[1]
    together = begin[:, :, None] + end[:, None, :]
    place = torch.arange(slots, device=begin.device)
    length = place[None] - place[:, None]
    together = together.masked_fill((length < 0) | (length >= MAX_ANSWER), -torch.inf)
    row, rest = divmod(int(together.argmax()), slots * slots)
    return row, rest // slots, rest % slots + 1


@torch.inference_mode()
def mark_answer(
    reader: SpanReader, head: IndexHead, question: Sequence[int], memories: Sequence[Segment]
) -> tuple[int, int, int] | None:
    """Where the likeliest answer stands: the memory, its first token and one past its last; None without memories.

    Args:
        reader: the span reader.
        head: the index head that names tokens.
        question: token ids.
        memories: token ids, or latents [L, D].
    """
    rows, numbers = [], []
    for number, memory in enumerate(memories):
        if len(memory):
            rows.append(
                head.of_text(memory.float())
                if isinstance(memory, Tensor)
                else head.tokens[torch.tensor(memory)]
            )
            numbers.append(number)
    if not rows or not question:
        return None
    slots = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=slots.device)
    there = length_mask(lengths, slots.shape[1])
    asked = head.tokens[torch.tensor(question, device=slots.device)].expand(len(rows), -1, -1)
    begin, end = reader(asked, there.new_ones(asked.shape[:2]), slots, there)
    row, first, last = best_span(begin, end)
    return numbers[row], first, last
