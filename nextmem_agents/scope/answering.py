"""Answering from recalled memories: as text for any model, or as latents for the codec's own backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.recall.budget import TokenCounter
from nextmem_agents.recall.extract import best_sentence
from nextmem_agents.recall.hits import Hits

Mode = Literal["auto", "decompress", "inject"]


@dataclass(frozen=True)
class Answer:
    """A reply with what it was made from.

    Attributes:
        text: the reply.
        hits: the memories it was given.
        mode: ``"decompress"`` (the memories went in as text) or ``"inject"`` (as latents).
        reader: who answered: ``"model"``, ``"codec"``, or ``"extract"`` (the best recalled sentence, verbatim).
        context_tokens: tokens of memory in the reader's context, as text or as latent positions.
    """

    text: str
    hits: Hits
    mode: Literal["decompress", "inject"]
    reader: Literal["model", "codec", "extract"]
    context_tokens: int

    def __str__(self) -> str:
        return self.text


def answer_from_text(
    question: str, hits: Hits, model: Callable[[str], str] | None, max_tokens: int, counter: TokenCounter
) -> Answer:
    """The model's reply to the hits as quoted text; without a model, the sentence that fits best."""
    if model is None:
        text = best_sentence(question, hits)
        return Answer(text, hits, "decompress", "extract", counter(text))
    memories = hits.as_prompt(max_tokens)
    reply = model(f"{memories}\n\nQuestion: {question}\nAnswer:")
    return Answer(reply, hits, "decompress", "model", counter(memories))


def answer_from_latents(question: str, hits: Hits, codec: LatentCodec) -> Answer:
    """The codec's reply to all latents of the hits, best first, in its own prompt layout."""
    rows = [hit.batch.latents(hit.index, codec) for hit in hits]
    together = torch.cat(rows) if rows else torch.zeros(0, codec.dim)
    latents = Latents(together[None], torch.tensor([len(together)]), codec.fingerprint)
    return Answer(codec.answer(latents, [question])[0], hits, "inject", "codec", len(together))
