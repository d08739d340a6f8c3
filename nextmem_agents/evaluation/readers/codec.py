"""``CodecReader``: a codec's own backbone answers, from text or from latents; the only reader that takes both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nextmem_agents.codec.chat import ChatTemplate
from nextmem_agents.codec.generation import Sampling, stream
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CannotAnswer
from nextmem_agents.evaluation.readers.reader import INSTRUCTIONS, Reader, Told
from nextmem_agents.recall.rendering import Renderable


class CodecReader(Reader):
    """Answers with the model whose latents the memory holds.

    A codec with a reader trained here gets memories as that learnt them: one after another, bare, and the question. One
    on a language model with a chat template gets what every other model gets.

    Args:
        codec: one that can answer.
        max_new_tokens: where a reply is cut at the latest.

    Raises:
        CannotAnswer: the codec only reconstructs.
    """

    def __init__(self, codec: LatentCodec, max_new_tokens: int = 32):
        if not codec.can_answer:
            raise CannotAnswer(
                f"codec {codec.config.name!r} reconstructs text and was not trained to answer; train a reader with "
                "`nextmem train span-reader` or `nextmem train reader`, or take another, such as --reader extractive"
            )
        self.codec = codec
        self.max_new_tokens = max_new_tokens
        self.name = f"codec:{codec.config.name}"
        self._template = ChatTemplate(codec)
        self._bare = codec.reads_bare
        self.instructions = "" if self._bare else INSTRUCTIONS

    def settings(self) -> dict[str, Any]:
        """With the codec's fingerprint."""
        return super().settings() | {
            "fingerprint": self.codec.fingerprint,
            "max_new_tokens": self.max_new_tokens,
        }

    def reply(self, prompt: str, system: str | None = None) -> str:
        """The backbone's greedy reply.

        Raises:
            CannotAnswer: the codec marks answers in memories and writes none.
        """
        self._check_writes()
        told = self.instructions if system is None else system
        first = [{"role": "system", "content": told}] if told and not self._bare else []
        parts = self._template.prompt([*first, {"role": "user", "content": prompt}])
        sampling = Sampling(max_new_tokens=self.max_new_tokens, ends=self._template.ends)
        return "".join(piece.text for piece in stream(self.codec, parts, sampling)).strip()

    def read(
        self,
        memories: Sequence[Renderable],
        question: str,
        count: Callable[[str], int],
        max_tokens: int | None = None,
        system: str | None = None,
    ) -> Told:
        """As every reader; bare where that is what it was trained on: whole memories, as many as fit."""
        if not self._bare:
            return super().read(memories, question, count, max_tokens, system)
        chosen: list[str] = []
        for memory in memories:
            if max_tokens is None or sum(map(count, [*chosen, memory.text])) <= max_tokens:
                chosen.append(memory.text)
        ids = self.codec.tokenizer.encode(chosen)
        [text] = self.codec.read([ids], [question], self.max_new_tokens)
        return Told(text, "\n".join([*chosen, question]), sum(map(count, chosen)))

    def chat_model(self) -> Any:
        """``ChatNextMem``, which an agent's memory can inject into; see :meth:`reply`."""
        self._check_writes()
        from nextmem_agents.evaluation.readers.in_langchain import require_langchain

        require_langchain()
        from langchain_nextmem import ChatNextMem

        return ChatNextMem(codec=self.codec, max_tokens=self.max_new_tokens)

    def llm(self) -> Any:
        """``NextMemLLM``, which a chat's memory can inject into; see :meth:`reply`."""
        self._check_writes()
        from nextmem_agents.evaluation.readers.in_llama_index import require_llama_index

        require_llama_index()
        from llama_index_nextmem import NextMemLLM

        return NextMemLLM(codec=self.codec, max_new_tokens=self.max_new_tokens)

    def _check_writes(self) -> None:
        if not self.codec.backbone_answers:
            raise CannotAnswer(
                f"codec {self.codec.config.name!r} marks answers in memories and writes none, so it is no agent's "
                "model; ask it through `nextmem evaluate qa` or `nextmem evaluate reading`, or take another reader"
            )
