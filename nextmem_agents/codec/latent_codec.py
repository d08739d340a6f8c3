"""``LatentCodec``: texts to latents and back."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextmem_agents.codec import checkpoint
from nextmem_agents.codec.batches import in_batches
from nextmem_agents.codec.checkpoint import Parts
from nextmem_agents.codec.chunking import chunk_text
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.index_head import late_interaction
from nextmem_agents.codec.injection import LAYOUTS, answer_prompt, inject_batch
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.official import read_official
from nextmem_agents.codec.roles import Placement, load_roles
from nextmem_agents.codec.tokens import CodecTokenizer
from nextmem_agents.errors import (
    CannotAnswer,
    CheckpointError,
    CodecMismatch,
    EmptyText,
    InvalidArgument,
    TextTooLong,
)
from nextmem_agents.quantization import QuantizedLatents, dequantize, quantize_batch


class LatentCodec:
    """A backbone in its two roles, with its tokenizer and configuration.

    It holds no state between calls: threads may share one. Build it with :meth:`load`.

    Attributes:
        encoder: the backbone as encoder.
        decoder: the backbone as decoder; the same object where the codec has no adapters.
        reader: the backbone as it answers; the decoder itself where no adapter was trained for that.
        tokenizer: text to token ids and back.
        config: what is neither weights nor tokenizer.
        fingerprint: SHA-256 (hex) of all that changes latents or decoding.
        folder: the checkpoint it was loaded from; None for one in the released folders.
    """

    def __init__(
        self,
        config: CodecConfig,
        parts: Parts,
        placement: Placement | None = None,
        folder: Path | None = None,
    ):
        """From parts; see :func:`nextmem_agents.codec.checkpoint.read`."""
        if config.fingerprint is None:
            raise CheckpointError("a codec needs a fingerprint; save it first")
        self.config = config
        self.fingerprint: str = config.fingerprint
        self.tokenizer = CodecTokenizer.parse(parts.tokenizer_json)
        self.encoder, self.decoder, self.reader = load_roles(parts, placement or Placement())
        self.folder = folder
        self.index_head = parts.index_head
        self._parts = parts
        self._elsewhere: dict[str, LatentCodec] = {}
        self._loading = threading.Lock()
        table = config.quantization_table
        self.quantization_table = None if table is None else torch.tensor(table)[: config.kept]

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = "mini",
        *,
        tokens_per_latent: int | None = None,
        levels: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        device_map: str | dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        load_in_4bit: bool = False,
        allow_download: bool = False,
    ) -> LatentCodec:
        """Load a shipped codec by name, or one from a checkpoint folder.

        Args:
            name_or_folder: ``"mini"``, a folder that holds ``nextmem.json``, or a hub id that is in the local
                cache.
            tokens_per_latent: another density that the codec was trained at (``densities`` in its
                ``nextmem.json``); a codec at another density is another codec, with a fingerprint of its own.
            levels: quantise latents to 2, 3, 4 or 8 levels (1.6, 2 or 3 bits), or to 16 (NF4); with a fingerprint
                of its own, too.
            device: where the model runs.
            dtype: the type of weights and activations; float32 on a CPU is what decodes the same everywhere.
            device_map: transformers' argument, in place of ``device``: spreads the backbone over devices.
            attn_implementation: transformers' argument.
            load_in_4bit: the backbone's weights in NF4, through bitsandbytes.
            allow_download: fetch from the Hugging Face hub what the local cache lacks.

        Raises:
            CheckpointError: no such codec, an incomplete or altered folder, another architecture, or a
                backbone without adapters.
            InvalidArgument: a density or number of levels that the codec does not have.
            MissingExtra: ``load_in_4bit`` or ``device_map`` without the packages they need.
        """
        folder = checkpoint.find(name_or_folder, allow_download)
        config, parts = checkpoint.read(folder, allow_download)
        config = checkpoint.at_density(config, parts, tokens_per_latent, levels)
        placement = Placement(device, dtype, device_map, attn_implementation, load_in_4bit)
        return cls(config, parts, placement, folder)

    @classmethod
    def load_official(
        cls,
        base: str | Path,
        stage_1: str | Path,
        stage_2: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        device_map: str | dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        load_in_4bit: bool = False,
        allow_download: bool = False,
    ) -> LatentCodec:
        """Load the paper's released folders as they are; the numbers are the released code's.

        Other than that code, nothing is cut silently (``max_tokens`` is the paper's 128, and :meth:`encode`
        takes more only if told), special tokens inside a text stay text unless told otherwise, and decoding
        is greedy.

        Args:
            base: the backbone (Qwen3-8B): a folder, or a hub id that is in the local cache.
            stage_1: ``stage_1_checkpoint-3092``: the decoder's adapter and ``special_tokens_DTOKENS.pt``.
            stage_2: ``stage_2_checkpoint-15``: the encoder's adapter.
            device: see :meth:`load`, like all that follow.
            dtype: see :meth:`load`.
            device_map: see :meth:`load`.
            attn_implementation: see :meth:`load`.
            load_in_4bit: see :meth:`load`.
            allow_download: see :meth:`load`.

        Raises:
            CheckpointError: a file is missing or damaged, the tokenizer lacks a token, or an adapter or the
                table belongs to another backbone.
        """
        config, parts = read_official(base, stage_1, stage_2, allow_download=allow_download)
        return cls(config, parts, Placement(device, dtype, device_map, attn_implementation, load_in_4bit))

    def save_pretrained(self, folder: str | Path, *, copy_backbone: bool = False) -> None:
        """Write the checkpoint into a new folder.

        Args:
            folder: new, or empty.
            copy_backbone: bring along a backbone that the codec only refers to.

        Raises:
            CheckpointError: the folder exists and is not empty.
        """
        checkpoint.save(Path(folder), self.config, self._parts, copy_backbone=copy_backbone)

    def to(self, device: str | torch.device) -> LatentCodec:
        """Move the model; returns the codec itself.

        Raises:
            InvalidArgument: the backbone was loaded in 4 bits or over a device map, and stays where it is.
        """
        if self.decoder.in_4bit or getattr(self.decoder.model, "hf_device_map", None):
            raise InvalidArgument(
                "a backbone in 4 bits or with a device_map stays where it was loaded; load the codec again "
                "there"
            )
        for role in {self.encoder, self.decoder, self.reader}:
            role.model.to(device)
        if self.index_head is not None:
            self.index_head.to(device)
        return self

    @property
    def max_tokens(self) -> int:
        """The most tokens a chunk may have."""
        return self.config.max_tokens

    @property
    def dim(self) -> int:
        """D, the width of a latent."""
        return self.decoder.hidden_size

    @property
    def index_size(self) -> int:
        """P, the width of an index vector."""
        return self.dim if self.index_head is None else self.index_head.to_index.out_features

    @property
    def profile(self) -> str:
        """What decoding depends on besides the codec: nf4 or the weights' dtype, and the device class."""
        weights = "nf4" if self.decoder.in_4bit else str(self.decoder.dtype).removeprefix("torch.")
        return f"{weights}/{self.decoder.device.type}"

    def in_profile(self, profile: str) -> LatentCodec:
        """The same codec with the weights' type and on the kind of device that ``profile`` names.

        Loaded when first asked for, and kept: near-ties fall the same way only where they fell when a payload was
        written.

        Raises:
            InvalidArgument: this machine has no such device.
            CheckpointError: the weights are no longer where they were.
        """
        if profile == self.profile:
            return self
        weights, _, device = profile.partition("/")
        with self._loading:
            if profile not in self._elsewhere:
                if not _has_device(device):
                    raise InvalidArgument(
                        f"decode profile {profile} needs a {device} device, and there is none here"
                    )
                in_4bit = weights == "nf4"
                placement = Placement(device, "bfloat16" if in_4bit else weights, load_in_4bit=in_4bit)
                self._elsewhere[profile] = LatentCodec(self.config, self._parts, placement, self.folder)
            return self._elsewhere[profile]

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

    def encode(
        self, texts: Sequence[str], *, max_tokens: int | None = None, parse_special_tokens: bool = False
    ) -> Latents:
        """Latents of texts of at most ``max_tokens`` tokens each.

        Args:
            texts: none empty.
            max_tokens: the most tokens a text may have, where that is not the codec's own limit.
            parse_special_tokens: take ``<|im_end|>`` and its like inside a text for the token, as the
                released code does; by default they are text.

        Returns:
            ``values`` float32 [B, L, D] on the codec's device, ``lengths`` int64 [B].

        Raises:
            EmptyText: a text is empty.
            TextTooLong: a text has more than ``max_tokens`` tokens.
            InvalidArgument: ``texts`` is one string, or a text is no string or has lone surrogates.
        """
        if isinstance(texts, str):
            raise InvalidArgument("encode takes a list of texts; write encode([text])")
        ids = self.tokenizer.encode(texts, parse_special_tokens=parse_special_tokens)
        return self.encode_ids(ids, max_tokens=max_tokens)

    def encode_ids(self, ids: Sequence[Sequence[int]], *, max_tokens: int | None = None) -> Latents:
        """Latents of token ids, one list per chunk; see :meth:`encode`."""
        limit = self.max_tokens if max_tokens is None else max_tokens
        for i, row in enumerate(ids):
            if not row:
                raise EmptyText(f"text {i} is empty; there is nothing to encode")
            if len(row) > limit:
                raise TextTooLong(
                    f"text {i} has {len(row)} tokens, and a chunk at most {limit}; "
                    "split it with codec.chunk(text)"
                )

        def work(rows: list[int]) -> list[Tensor]:
            values, lengths = encode_batch(self.encoder, self.config, [ids[i] for i in rows])
            return [row[:n] for row, n in zip(values, lengths.tolist(), strict=True)]

        rows = in_batches([len(row) for row in ids], work)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=self.encoder.device)
        if not rows:
            return Latents(torch.zeros(0, 0, self.dim), lengths, self.fingerprint)
        return Latents(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, self.fingerprint)

    def decode(self, latents: Latents, max_new_tokens: int = 256) -> list[str]:
        """Greedy reconstruction, batched, without repair; bytes that are no UTF-8 come back as U+FFFD.

        Raises:
            CodecMismatch: the latents are another codec's.
        """
        self.check(latents)
        _check_steps(max_new_tokens)
        lengths = latents.lengths.tolist()
        ratio = self.config.tokens_per_latent

        def work(rows: list[int]) -> list[list[int]]:
            steps = [min(max_new_tokens, lengths[i] * ratio) if ratio else max_new_tokens for i in rows]
            longest = max(lengths[i] for i in rows)
            values = latents.values[rows, :longest]
            return greedy_batch(self.decoder, self.config, values, latents.lengths[rows], steps=steps)

        ids = in_batches(lengths, work)
        return [self._text(row) for row in ids]

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.to_bytes(ids).decode("utf-8", "replace")

    def answer(self, latents: Latents, questions: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Answer each question from its row's latents, injected as input embeddings; greedy, batched.

        Args:
            latents: one row per question.
            questions: one per row.
            max_new_tokens: where an answer is cut at the latest.

        Returns:
            Answers, after the layout's post-processing.

        Raises:
            CannotAnswer: this codec reconstructs text and was not trained to answer.
            CodecMismatch: the latents are another codec's.
            TextTooLong: a question has more tokens than its layout has room for (released: 960).
            InvalidArgument: not one question per row, or a question is no string or has lone surrogates.
        """
        if self.config.answer_layout is None:
            raise CannotAnswer(
                f"codec {self.config.name!r} reconstructs text and was not trained to answer from latents; "
                "decompress the memory and ask a chat model"
            )
        self.check(latents)
        _check_steps(max_new_tokens)
        if isinstance(questions, str) or len(questions) != len(latents):
            raise InvalidArgument(f"answer takes one question per row of latents: a list of {len(latents)}")
        layout = LAYOUTS[self.config.answer_layout]
        for i, question in enumerate(questions):
            if (n := self.count_tokens(question)) > layout.max_question_tokens:
                raise TextTooLong(f"question {i} has {n} tokens, and may have {layout.max_question_tokens}")
        prompts = [
            answer_prompt(layout, self.tokenizer, self.config, question, values[:n])
            for question, values, n in zip(questions, latents.values, latents.lengths.tolist(), strict=True)
        ]

        def work(rows: list[int]) -> list[list[int]]:
            chosen = [prompts[i] for i in rows]
            return inject_batch(self.reader, self.config, chosen, steps=[max_new_tokens] * len(rows))

        ids = in_batches([sum(map(len, prompt)) for prompt in prompts], work)
        return [layout.clean(self._text(row)) for row in ids]

    @property
    def can_answer(self) -> bool:
        """Whether :meth:`answer` works: the codec has a prompt layout for it."""
        return self.config.answer_layout is not None

    def pool(self, latents: Latents) -> Tensor:
        """The mean over each row's latents, float32 [B, D] (paper, task 3)."""
        self.check(latents)
        return latents.values.float().sum(1) / latents.lengths[:, None].to(latents.values.device)

    def index_vectors(self, latents: Latents) -> Tensor:
        """The one vector per row that an index searches, float32 [B, P] of length 1, on the CPU.

        The index head's, where the codec has one; else the direction of :meth:`pool`.
        """
        self.check(latents)
        if self.index_head is None:
            return F.normalize(self.pool(latents), dim=-1).cpu()
        return self.index_head.pooled(latents.values.float(), latents.lengths).cpu()

    def late_interaction(self, queries: Latents, passages: Latents) -> Tensor:
        """How well each passage answers each query, by the best match of every part of the query (MaxSim).

        Args:
            queries: Q rows.
            passages: B rows.

        Returns:
            float32 [Q, B] in -1 … 1, on the CPU: means, weighted by the norms of the query's term vectors, of
            the cosine to the passage's nearest term vector. Without an index head the latents themselves are
            the terms, of equal weight.

        Raises:
            CodecMismatch: latents of another codec.
        """
        self.check(queries)
        self.check(passages)
        return late_interaction(*self._terms(queries), *self._terms(passages)).cpu()

    def _terms(self, latents: Latents) -> tuple[Tensor, Tensor]:
        values = latents.values.float()
        if self.index_head is None:
            return F.normalize(values, dim=-1), latents.lengths
        return self.index_head.terms(values, latents.lengths)

    def quantize(self, latents: Latents, *, as_released: bool = False) -> list[QuantizedLatents]:
        """Each row in the codec's codes (NF4, or 2, 3, 4 or 8 levels), packed, with FP8 scales if it has any.

        Args:
            latents: this codec's.
            as_released: the released quantiser's very bits, in the codec's dtype; the default searches for
                scales of less error in the same layout.

        Raises:
            CodecMismatch: the latents are another codec's.
            InvalidArgument: a value is not finite, or the codec's layout is not the released one.
        """
        self.check(latents)
        values = latents.values
        if as_released:
            if self.config.quantization != "per_dimension":
                raise InvalidArgument(
                    f"codec {self.config.name!r} does not use the released layout, per_dimension"
                )
            # Released latents are of the model's dtype; ours are the same numbers, held in float32.
            values = values.to(self.encoder.dtype)
        table = self.quantization_table
        return quantize_batch(
            values[..., : self.config.kept],
            latents.lengths,
            self.config.quantization,
            table,
            search=not as_released,
            levels=self.config.levels,
        )

    def dequantize(self, rows: Sequence[QuantizedLatents], *, as_released: bool = False) -> Latents:
        """Latents of quantised rows; ``as_released`` rounds each value to bfloat16, as the released code does."""
        values, lengths = dequantize(rows, self.quantization_table, as_released)
        values = F.pad(values, (0, self.dim - values.shape[-1]))
        return Latents(values.to(self.encoder.device), lengths.to(self.encoder.device), self.fingerprint)

    def check(self, latents: Latents) -> None:
        """Raise CodecMismatch unless the latents are this codec's."""
        if latents.fingerprint != self.fingerprint:
            raise CodecMismatch(
                f"these latents were made by codec {latents.fingerprint[:12]}, not by {self.config.name!r} "
                f"({self.fingerprint[:12]}); use the codec that made them"
            )


def _has_device(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_available()
    return device != "mps" or torch.backends.mps.is_available()


def _check_steps(max_new_tokens: int) -> None:
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InvalidArgument(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens!r}")
