"""``LatentCodec``: texts to latents and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nextmem_agents.codec.answering import AnsweringCodec
from nextmem_agents.codec.batches import in_batches
from nextmem_agents.codec.chunking import chunk_text
from nextmem_agents.codec.decoder import check_steps, greedy_batch
from nextmem_agents.codec.encoder import encode_batch
from nextmem_agents.codec.index_head import late_interaction
from nextmem_agents.codec.latents import Latents, length_mask
from nextmem_agents.codec.own_settings import own_settings
from nextmem_agents.codec.projection import project
from nextmem_agents.codec.refinement import Attempt, Refinement
from nextmem_agents.errors import EmptyText, InvalidArgument, PayloadError, TextTooLong
from nextmem_agents.quantization import Payload, QuantizedLatents, dequantize, quantize_batch


class LatentCodec(AnsweringCodec):
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

    @own_settings()
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
        refined = self.refine_attempts(self.attempts(latents, ids), ids)
        values = torch.nn.utils.rnn.pad_sequence([each.values for each in refined], batch_first=True)
        return Latents(values, latents.lengths, self.fingerprint)

    @own_settings()
    def attempts(self, latents: Latents, ids: Sequence[Sequence[int]]) -> list[Attempt]:
        """What would be stored of each row, and the lead that the decoder then gives each of its tokens.

        Args:
            latents: the encoder's.
            ids: token ids of each row.
        """

        def work(rows: list[int]) -> list[Attempt]:
            lengths = latents.lengths[rows]
            values = latents.values[rows, : int(lengths.max())]
            return self._refinement.attempts(values, lengths, [ids[i] for i in rows])

        return in_batches([len(row) for row in ids], work, self.decoder.side_by_side)

    @own_settings()
    def refine_attempts(self, begun: Sequence[Attempt], ids: Sequence[Sequence[int]]) -> list[Attempt]:
        """See :meth:`refine`.

        Args:
            begun: of :meth:`attempts`.
            ids: token ids of each row.
        """

        def work(rows: list[int]) -> list[Attempt]:
            return self._refinement.of([begun[i] for i in rows], [ids[i] for i in rows])

        return in_batches([len(row) for row in ids], work, self.decoder.side_by_side)

    @property
    def _refinement(self) -> Refinement:
        def codes(values: Tensor, lengths: Tensor) -> list[QuantizedLatents]:
            return self.quantize(Latents(values, lengths, self.fingerprint))

        def values(codes: list[QuantizedLatents]) -> Tensor:
            return self.dequantize(codes).values

        table = self.quantization_table
        unit = None if table is None else F.pad(table, (0, self.dim - len(table))).to(self.decoder.device)
        return Refinement(self.decoder, self.config, codes, values, unit)

    @own_settings()
    def decode(self, latents: Latents, max_new_tokens: int = 256) -> list[str]:
        """Greedy reconstruction, batched, without repair; bytes that are no UTF-8 come back as U+FFFD.

        Raises:
            CodecMismatch: the latents are another codec's.
        """
        self.check(latents)
        check_steps(max_new_tokens)
        lengths = latents.lengths.tolist()
        ratio = self.config.tokens_per_latent

        def work(rows: list[int]) -> list[list[int]]:
            steps = [min(max_new_tokens, lengths[i] * ratio) if ratio else max_new_tokens for i in rows]
            longest = max(lengths[i] for i in rows)
            values = latents.values[rows, :longest]
            return greedy_batch(self.decoder, self.config, values, latents.lengths[rows], steps=steps)

        ids = in_batches(lengths, work, self.decoder.side_by_side)
        return [self.tokenizer.to_text(row) for row in ids]

    @own_settings()
    def pool(self, latents: Latents) -> Tensor:
        """The mean over each row's latents, float32 [B, D] (paper, task 3)."""
        self.check(latents)
        return latents.values.float().sum(1) / latents.lengths[:, None].to(latents.values.device)

    @own_settings()
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

    @own_settings()
    def draft(self, latents: Latents) -> Tensor | None:
        """The token that the index head reads at each position, int64 [B, T]; None where it names no tokens.

        A guess at the text, four in five tokens right with `mini-16`; what stands past a row's latents says nothing.

        Raises:
            CodecMismatch: the latents are another codec's.
        """
        self.check(latents)
        if self.index_head is None or not len(self.index_head.tokens):
            return None
        with torch.inference_mode():
            terms, _ = self.index_head.terms(latents.values.float(), latents.lengths)
            return self.index_head.nearest_tokens(terms)

    @property
    def projects(self) -> bool:
        """Whether index vectors are projected, and :meth:`pooled_similarity` tells more than they do."""
        return self.index_head is None and self.config.index_dimensions is not None

    @own_settings()
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

    @own_settings()
    def late_interaction(self, queries: Latents, passages: Latents) -> Tensor:
        """How well each passage answers each query, by the best match of every part of the query (MaxSim).

        Args:
            queries: Q rows.
            passages: B rows.

        Returns:
            float32 [Q, B] in -1 … 1, on the CPU: means, weighted by the norms of the query's term vectors, of
            the cosine to the passage's nearest term vector; those of both are read as :meth:`IndexHead.expected`
            says. Without an index head the latents themselves are the terms, of equal weight.

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
        terms, counts = self.index_head.terms(values, latents.lengths)
        there = length_mask(counts, terms.shape[1])
        terms[there] = self.index_head.expected(terms[there])
        return terms, counts

    @own_settings()
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

    def check_payload(self, payload: Payload) -> None:
        """Raise PayloadError unless this codec can have written the payload: its tag needs no secret, so that anybody
        can have.
        """
        if payload.codec_id != self.codec_id:
            raise PayloadError(f"it was written by another codec, {payload.codec_id.hex()}")
        latents = payload.latents
        if latents is None:
            return
        shape = self.config.latents_for(payload.n_tokens), self.config.kept or self.dim
        wanted = self.config.quantization, self.config.levels, shape
        found = latents.scheme, latents.levels, latents.shape
        if found != wanted or payload.n_tokens > self.config.max_tokens:
            raise PayloadError(
                f"{payload.n_tokens} tokens in latents {latents.shape}, {latents.scheme} of {latents.levels} "
                f"levels, are not what codec {self.config.name!r} writes"
            )
        if any(token >= self.decoder.vocabulary for _, token in payload.repair):
            raise PayloadError("a repair names a token that the codec does not have")

    @own_settings()
    def dequantize(self, rows: Sequence[QuantizedLatents], *, as_released: bool = False) -> Latents:
        """Latents of quantised rows; ``as_released`` rounds each value to bfloat16, as the released code does."""
        values, lengths = dequantize(rows, self.quantization_table, as_released)
        values = F.pad(values, (0, self.dim - values.shape[-1]))
        return Latents(values.to(self.encoder.device), lengths.to(self.encoder.device), self.fingerprint)
