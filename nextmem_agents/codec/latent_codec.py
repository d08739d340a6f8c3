"""``LatentCodec``: texts to latents and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nextmem_agents.errors import CannotAnswer, CheckpointError, CodecMismatch, EmptyText, InvalidArgument, TextTooLong
from nextmem_agents.quantization import QuantizedLatents, dequantize, quantize_batch
from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.chunking import chunk_text
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.tokens import CodecTokenizer

T = TypeVar("T")
BATCH = 32


def by_length(lengths: Sequence[int], size: int = BATCH) -> Iterator[list[int]]:
    """Row numbers in batches of like length, so that little is padded.

    Examples:
        >>> list(by_length([5, 1, 4], size=2))
        [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def in_batches(lengths: Sequence[int], work: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """``work`` on batches of like length, its results in the original order."""
    results: dict[int, T] = {}
    for rows in by_length(lengths):
        results.update(zip(rows, work(rows), strict=True))
    return [results[i] for i in range(len(lengths))]


class LatentCodec:
    """A backbone in its two roles, with its tokenizer and configuration.

    It holds no state between calls: threads may share one. Build it with :meth:`load`.
    """

    def __init__(self, backbone: Backbone, tokenizer: CodecTokenizer, config: CodecConfig, folder: Path):
        if config.fingerprint is None:
            raise CheckpointError("a codec needs a fingerprint; save it first")
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.config = config
        self.folder = folder
        self.fingerprint: str = config.fingerprint
        table = config.quantization_table
        self.quantization_table = None if table is None else torch.tensor(table)

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = "mini",
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
    ) -> LatentCodec:
        """Load a shipped codec by name, or one from a checkpoint folder.

        Args:
            name_or_folder: ``"mini"``, or a folder that holds ``nextmem.json``.
            device: where the model runs.
            dtype: the type of weights and activations; float32 on a CPU is what decodes the same everywhere.

        Raises:
            CheckpointError: no such codec, an incomplete or altered folder, or another architecture.
        """
        folder = checkpoint.find(name_or_folder)
        config = CodecConfig.load(folder)
        checkpoint.verify(folder, config)
        resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
            raise InvalidArgument(f"dtype {dtype!r} is no floating-point type; give 'float32' or 'bfloat16'")
        backbone = checkpoint.load_backbone(folder, device=device, dtype=resolved)
        return cls(backbone, CodecTokenizer.load(folder), config, folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the checkpoint into a new folder.

        Raises:
            CheckpointError: the folder exists and is not empty.
        """
        target = Path(folder)
        if target.exists() and any(target.iterdir()):
            raise CheckpointError(f"{target} exists and is not empty; give a new folder")
        shutil.copytree(self.folder, target, dirs_exist_ok=True)

    def to(self, device: str | torch.device) -> LatentCodec:
        """Move the model; returns the codec itself."""
        self.backbone.model.to(device)
        return self

    @property
    def max_tokens(self) -> int:
        """The most tokens a chunk may have."""
        return self.config.max_tokens

    @property
    def dim(self) -> int:
        """D, the width of a latent."""
        return self.backbone.hidden_size

    @property
    def profile(self) -> str:
        """What decoding depends on besides the weights: dtype and device class."""
        return f"{str(self.backbone.dtype).removeprefix('torch.')}/{self.backbone.device.type}"

    @property
    def codec_id(self) -> bytes:
        """The four bytes by which a payload names its codec."""
        return bytes.fromhex(self.fingerprint[:8])

    def count_tokens(self, text: str) -> int:
        """Backbone tokens of a text of any length."""
        return len(self.tokenizer.encode([text])[0])

    def chunk(self, text: str) -> list[str]:
        """Split a text into parts of at most ``max_tokens`` tokens; joined, they are the text.

        Cut after lines, sentences or words where that leaves a part at least half full.

        Raises:
            InvalidArgument: no string, or lone surrogates.
        """
        return chunk_text(self.tokenizer, text, self.max_tokens)

    def encode(self, texts: Sequence[str]) -> Latents:
        """Latents of texts of at most ``max_tokens`` tokens each.

        Returns:
            ``values`` float32 [B, L, D] on the codec's device, ``lengths`` int64 [B].

        Raises:
            EmptyText: a text is empty.
            TextTooLong: a text has more than ``max_tokens`` tokens.
            InvalidArgument: ``texts`` is one string, or a text is no string or has lone surrogates.
        """
        if isinstance(texts, str):
            raise InvalidArgument("encode takes a list of texts; write encode([text])")
        return self.encode_ids(self.tokenizer.encode(texts))

    def encode_ids(self, ids: Sequence[Sequence[int]]) -> Latents:
        """Latents of token ids, one list per chunk; see :meth:`encode`."""
        for i, row in enumerate(ids):
            if not row:
                raise EmptyText(f"text {i} is empty; there is nothing to encode")
            if len(row) > self.max_tokens:
                raise TextTooLong(
                    f"text {i} has {len(row)} tokens, and a chunk at most {self.max_tokens}; "
                    "split it with codec.chunk(text)"
                )

        def work(rows: list[int]) -> list[Tensor]:
            values, lengths = encode_batch(self.backbone, self.config, [ids[i] for i in rows])
            return [row[:n] for row, n in zip(values, lengths.tolist(), strict=True)]

        rows = in_batches([len(row) for row in ids], work)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=self.backbone.device)
        if not rows:
            return Latents(torch.zeros(0, 0, self.dim), lengths, self.fingerprint)
        return Latents(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, self.fingerprint)

    def decode(self, latents: Latents, max_new_tokens: int = 256) -> list[str]:
        """Greedy reconstruction, batched, without repair; bytes that are no UTF-8 come back as U+FFFD.

        Raises:
            CodecMismatch: the latents are another codec's.
        """
        self.check(latents)
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise InvalidArgument(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens!r}")
        lengths = latents.lengths.tolist()
        ratio = self.config.tokens_per_latent

        def work(rows: list[int]) -> list[list[int]]:
            steps = [min(max_new_tokens, lengths[i] * ratio) if ratio else max_new_tokens for i in rows]
            longest = max(lengths[i] for i in rows)
            values = latents.values[rows, :longest]
            return greedy_batch(self.backbone, self.config, values, latents.lengths[rows], steps=steps)

        ids = in_batches(lengths, work)
        return [self.tokenizer.to_bytes(row).decode("utf-8", "replace") for row in ids]

    def answer(self, latents: Latents, questions: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Answer each question from its row's latents, injected as input embeddings.

        Raises:
            CannotAnswer: this codec reconstructs text and was not trained to answer.
        """
        raise CannotAnswer(
            f"codec {self.config.name!r} reconstructs text and was not trained to answer from latents; "
            "decompress the memory and ask a chat model"
        )

    def pool(self, latents: Latents) -> Tensor:
        """The mean over each row's latents, float32 [B, D]: the vector that is searched (paper, task 3)."""
        self.check(latents)
        return latents.values.float().sum(1) / latents.lengths[:, None].to(latents.values.device)

    def quantize(self, latents: Latents) -> list[QuantizedLatents]:
        """Each row in NF4, packed two codes to a byte, with FP8 scales."""
        self.check(latents)
        return quantize_batch(latents.values, latents.lengths, self.config.quantization, self.quantization_table)

    def dequantize(self, rows: Sequence[QuantizedLatents]) -> Latents:
        """Latents of NF4 rows."""
        values, lengths = dequantize(rows, self.quantization_table)
        return Latents(values.to(self.backbone.device), lengths.to(self.backbone.device), self.fingerprint)

    def check(self, latents: Latents) -> None:
        """Raise CodecMismatch unless the latents are this codec's."""
        if latents.fingerprint != self.fingerprint:
            raise CodecMismatch(
                f"these latents were made by codec {latents.fingerprint[:12]}, not by {self.config.name!r} "
                f"({self.fingerprint[:12]}); use the codec that made them"
            )
