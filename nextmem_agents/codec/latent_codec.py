"""``LatentCodec``: texts to latents and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nextmem_agents.codec.batches import in_batches
from nextmem_agents.codec.chunking import chunk_text
from nextmem_agents.codec.decoder import greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.index_head import late_interaction
from nextmem_agents.codec.injection import (
    LAYOUTS,
    READER,
    AnswerLayout,
    Segment,
    answer_prompt,
    inject_batch,
    reader_prompt,
)
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.loading import LoadedCodec
from nextmem_agents.codec.projection import project
from nextmem_agents.codec.refinement import Refinement
from nextmem_agents.codec.span_reader import mark_answer
from nextmem_agents.errors import (
    CannotAnswer,
    CodecMismatch,
    EmptyText,
    InvalidArgument,
    TextTooLong,
)
from nextmem_agents.quantization import QuantizedLatents, dequantize, quantize_batch


class LatentCodec(LoadedCodec):
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
        parts: what it is made of, besides its configuration: ``parts.backbone`` is the backbone's folder.
        worker: the thread that batches what many callers ask at once; see :mod:`nextmem_agents.codec.worker`.
    """

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
        if self.index_head is not None:
            return self.index_head.index_size
        return self.config.index_dimensions or self.dim

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

        rows = self.together("encode", self._encode_rows, ids)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=self.encoder.device)
        if not rows:
            return Latents(torch.zeros(0, 0, self.dim), lengths, self.fingerprint)
        return Latents(
            torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths, self.fingerprint
        )

    def _encode_rows(self, ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Unpadded latents [L, D] of each chunk."""

        def work(rows: list[int]) -> list[Tensor]:
            values, lengths = encode_batch(self.encoder, self.config, [ids[i] for i in rows])
            return [row[:n] for row, n in zip(values, lengths.tolist(), strict=True)]

        return in_batches([len(row) for row in ids], work, self.encoder.side_by_side)

    def refine(self, latents: Latents, ids: Sequence[Sequence[int]]) -> Latents:
        """Latents from which, once quantised, the decoder gives their text, or more of it than before.

        Gradient steps on each text's own latents, as many as ``config.refinement_steps`` says and the text needs; none
        for a text that comes back already. See :mod:`nextmem_agents.codec.refinement`.

        Args:
            latents: the encoder's.
            ids: token ids of each row.

        Raises:
            CodecMismatch: the latents are another codec's.
        """
        self.check(latents)
        if not self.config.refinement_steps or not ids:
            return latents

        def stored(values: Tensor, lengths: Tensor) -> Tensor:
            return self.dequantize(self.quantize(Latents(values, lengths, self.fingerprint))).values

        table = self.quantization_table
        unit = None if table is None else F.pad(table, (0, self.dim - len(table))).to(latents.values.device)
        refinement = Refinement(self.decoder, self.config, stored, unit)
        lengths = latents.lengths.tolist()

        def work(rows: list[int]) -> list[Tensor]:
            values, chosen = latents.values[rows, : max(lengths[i] for i in rows)], [ids[i] for i in rows]
            moved = refinement.of(values, latents.lengths[rows], chosen)
            return [row[: lengths[i]] for row, i in zip(moved, rows, strict=True)]

        rows = in_batches([len(row) for row in ids], work, self.decoder.side_by_side)
        values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Latents(values, latents.lengths, self.fingerprint)

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

        ids = in_batches(lengths, work, self.decoder.side_by_side)
        return [self._text(row) for row in ids]

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.to_bytes(ids).decode("utf-8", "replace")

    def answer(self, latents: Latents, questions: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Answer each question from its row's latents alone.

        They are injected into the backbone as input embeddings, and the answer is decoded greedily, batched; a codec
        with a span reader gives the stretch that it marks, as the decoder reads it from the latents.

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
        if not self.can_answer:
            raise CannotAnswer(
                f"codec {self.config.name!r} reconstructs text and was not trained to answer from latents; "
                "decompress the memory and ask a chat model"
            )
        self.check(latents)
        _check_steps(max_new_tokens)
        if isinstance(questions, str) or len(questions) != len(latents):
            raise InvalidArgument(f"answer takes one question per row of latents: a list of {len(latents)}")
        rows = [values[:n] for values, n in zip(latents.values, latents.lengths.tolist(), strict=True)]
        if self.reads_bare:
            return self.read([[row] for row in rows], questions, max_new_tokens)
        layout = LAYOUTS["released"]
        self._encode_questions(questions, layout)
        prompts = [
            answer_prompt(layout, self.tokenizer, self.config, question, row)
            for question, row in zip(questions, rows, strict=True)
        ]
        return [layout.clean(self._text(ids)) for ids in self._continue(prompts, max_new_tokens)]

    def _encode_questions(self, questions: Sequence[str], layout: AnswerLayout) -> list[list[int]]:
        asked = self.tokenizer.encode(questions)
        for i, ids in enumerate(asked):
            if len(ids) > layout.max_question_tokens:
                raise TextTooLong(
                    f"question {i} has {len(ids)} tokens, and may have {layout.max_question_tokens}"
                )
        return asked

    def _continue(self, prompts: Sequence[Sequence[Segment]], max_new_tokens: int) -> list[list[int]]:
        """Greedy continuations of prompts of any lengths."""

        def work(rows: list[int]) -> list[list[int]]:
            chosen = [prompts[i] for i in rows]
            return inject_batch(self.reader, self.config, chosen, steps=[max_new_tokens] * len(rows))

        return in_batches([sum(map(len, prompt)) for prompt in prompts], work, self.reader.side_by_side)

    @property
    def can_answer(self) -> bool:
        """Whether :meth:`answer` works: the codec has a prompt layout for it, or a span reader."""
        return self.backbone_answers or self.span_reader is not None

    @property
    def backbone_answers(self) -> bool:
        """Whether the backbone itself was trained to answer from latents, in a prompt layout of its own."""
        return self.config.answer_layout is not None

    @property
    def reads_bare(self) -> bool:
        """Whether what answers takes memories one after another, as text or latents, with nothing around them."""
        return self.config.answer_layout == READER if self.backbone_answers else self.span_reader is not None

    def read(
        self, memories: Sequence[Sequence[Segment]], questions: Sequence[str], max_new_tokens: int = 64
    ) -> list[str]:
        """Answer each question from memories that are token ids or latents, in any mixture; see :attr:`reads_bare`.

        Args:
            memories: of each question, best first; ids, or latents float32 [L, D] as quantised.
            questions: one for each row of memories.
            max_new_tokens: where an answer is cut at the latest.

        Returns:
            Answers; the empty string where a span reader is given no memory.

        Raises:
            CannotAnswer: this codec does not read memories so.
            TextTooLong: a question has more than 128 tokens.
            InvalidArgument: not one question per row, or a question is no string or has lone surrogates.
        """
        if not self.reads_bare:
            raise CannotAnswer(
                f"codec {self.config.name!r} has no reader that takes memories one after another"
            )
        if isinstance(questions, str) or len(questions) != len(memories):
            raise InvalidArgument(f"read takes one question per row of memories: a list of {len(memories)}")
        _check_steps(max_new_tokens)
        layout = LAYOUTS[READER]
        asked = self._encode_questions(questions, layout)
        if not self.backbone_answers and self.span_reader is not None and self.index_head is not None:
            marks = [
                mark_answer(self.span_reader, self.index_head, ids, row)
                for ids, row in zip(asked, memories, strict=True)
            ]
            found = [
                [] if mark is None else self._tokens(row[mark[0]], *mark[1:])[:max_new_tokens]
                for row, mark in zip(memories, marks, strict=True)
            ]
        else:
            prompts = [reader_prompt(self.config, row, ids) for row, ids in zip(memories, asked, strict=True)]
            found = self._continue(prompts, max_new_tokens)
        return [layout.clean(self._text(row)) for row in found]

    def _tokens(self, memory: Segment, first: int, last: int) -> list[int]:
        """A stretch of a memory: of latents, as the decoder reads them, or, of several texts' in a row, the head."""
        if not isinstance(memory, Tensor):
            return list(memory[first:last])
        if self.config.tokens_per_latent and len(memory) * self.config.tokens_per_latent <= self.max_tokens:
            lengths = torch.tensor([len(memory)], device=memory.device)
            [ids] = greedy_batch(self.decoder, self.config, memory[None], lengths, steps=[last])
            if len(ids) >= last:
                return ids[first:last]
        assert self.index_head is not None  # noqa: S101 - a span reader reads through it
        named, _ = self.index_head.named_tokens(self.index_head.of_text(memory.float()))
        return [int(i) for i in named[first:last]]

    def pool(self, latents: Latents) -> Tensor:
        """The mean over each row's latents, float32 [B, D] (paper, task 3)."""
        self.check(latents)
        return latents.values.float().sum(1) / latents.lengths[:, None].to(latents.values.device)

    def index_vectors(self, latents: Latents) -> Tensor:
        """The one vector per row that an index searches, float32 [B, P] of length 1, on the CPU.

        The index head's, where the codec has one; else the direction of :meth:`pool`, projected where the
        codec's configuration says so.
        """
        self.check(latents)
        if self.index_head is None:
            pooled = F.normalize(self.pool(latents), dim=-1)
            if self.config.index_dimensions is not None:
                pooled = F.normalize(project(pooled, self.config.index_dimensions), dim=-1)
            return pooled.cpu()
        return self.index_head.pooled(latents.values.float(), latents.lengths).cpu()

    @property
    def projects(self) -> bool:
        """Whether index vectors are projected, and :meth:`pooled_similarity` tells more than they do."""
        return self.index_head is None and self.config.index_dimensions is not None

    def pooled_similarity(self, queries: Latents, passages: Latents) -> Tensor:
        """Cosine of the mean latents of each query and passage, which projected index vectors approximate.

        Args:
            queries: Q rows.
            passages: B rows.

        Returns:
            float32 [Q, B] in -1 … 1, on the CPU.

        Raises:
            CodecMismatch: latents of another codec.
        """
        return (F.normalize(self.pool(queries), dim=-1) @ F.normalize(self.pool(passages), dim=-1).T).cpu()

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


def _check_steps(max_new_tokens: int) -> None:
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InvalidArgument(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens!r}")
