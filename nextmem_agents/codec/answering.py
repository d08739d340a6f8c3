"""Questions answered from latents: the codec's backbone, or its span reader, is given memories and a question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextmem_agents.codec.batches import in_batches
from nextmem_agents.codec.decoder import check_steps, greedy_batch
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
from nextmem_agents.codec.own_settings import own_settings
from nextmem_agents.codec.span_reader import mark_answer
from nextmem_agents.errors import CannotAnswer, InvalidArgument, TextTooLong


class AnsweringCodec(LoadedCodec):
    """What a codec answers, and whether it can."""

    @own_settings()
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
        check_steps(max_new_tokens)
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
        return [layout.clean(self.tokenizer.to_text(ids)) for ids in self._continue(prompts, max_new_tokens)]

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

    @own_settings()
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
        check_steps(max_new_tokens)
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
        return [layout.clean(self.tokenizer.to_text(row)) for row in found]

    def _tokens(self, memory: Segment, first: int, last: int) -> list[int]:
        """A stretch of a memory: of latents, as the decoder reads them, or, of several texts' in a row, the head."""
        if not isinstance(memory, Tensor):
            return list(memory[first:last])
        if (
            self.config.tokens_per_latent
            and len(memory) * self.config.tokens_per_latent <= self.config.max_tokens
        ):
            lengths = torch.tensor([len(memory)], device=memory.device)
            [ids] = greedy_batch(self.decoder, self.config, memory[None], lengths, steps=[last])
            if len(ids) >= last:
                return ids[first:last]
        assert self.index_head is not None  # noqa: S101 - a span reader reads through it
        named, _ = self.index_head.named_tokens(self.index_head.of_text(memory.float()))
        return [int(i) for i in named[first:last]]
