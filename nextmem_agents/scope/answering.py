"""Answering from recalled memories: as text for any model, or as latents for the codec's own backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from nextmem_agents.codec.injection import Segment
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import CannotAnswer, InvalidArgument
from nextmem_agents.recall.budget import TokenCounter
from nextmem_agents.recall.extract import best_sentence
from nextmem_agents.recall.hits import Hits
from nextmem_agents.recall.policy import Mode, Plan, answers_unasked

MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Answer:
    """A reply with what it was made from.

    Attributes:
        text: the reply.
        hits: the memories that were recalled.
        mode: ``"decompress"`` (the memories went in as text), ``"inject"`` (as latents) or ``"mixed"``.
        reader: who answered: ``"model"``, ``"codec"``, or ``"extract"`` (the best recalled sentence, verbatim).
        context_tokens: tokens of memory in the reader's context, as text and as latent positions.
        plan: which memory went in how; None where a sentence was quoted.
    """

    text: str
    hits: Hits
    mode: Literal["decompress", "inject", "mixed"]
    reader: Literal["model", "codec", "extract"]
    context_tokens: int
    plan: Plan | None = None

    def __str__(self) -> str:
        return self.text


_FUNCTION = "a function from a prompt to its reply, such as lambda prompt: chat_model.invoke(prompt).text"


def choose_reader(codec: LatentCodec, model: object, mode: Mode) -> Literal["model", "codec", "extract"]:
    """Who answers: the given model; else the codec's own reader, if that was asked for or is good enough.

    Raises:
        CannotAnswer: latents are asked for, and the model cannot take any or the codec was not trained to answer.
        InvalidArgument: the model is no function.
    """
    if model is not None and not callable(model):
        raise InvalidArgument(f"model is {_FUNCTION}, not {model!r:.80}")
    latents = mode in ("inject", "mixed")
    if model is not None and latents:
        raise CannotAnswer(
            "latents can be injected into the codec's own backbone only; "
            "leave model out, or give its prompt text with mode='decompress'"
        )
    if latents and not codec.can_answer:
        raise CannotAnswer(
            f"codec {codec.config.name!r} reconstructs text and was not trained to answer from latents; "
            "decompress the memory and ask a chat model"
        )
    if model is not None:
        return "model"
    return "codec" if latents or (mode == "auto" and answers_unasked(codec)) else "extract"


def answer_from_text(
    question: str, hits: Hits, plan: Plan, model: Callable[[str], str] | None, counter: TokenCounter
) -> Answer:
    """The model's reply to the hits as quoted text; without a model, the sentence that fits best."""
    if model is None:
        text = best_sentence(question, hits)
        return Answer(text, hits, "decompress", "extract", counter(text))
    reply = model(f"{plan.render()}\n\nQuestion: {question}\nAnswer:")
    if not isinstance(reply, str):
        raise InvalidArgument(f"model gave a {type(reply).__name__}; it is {_FUNCTION}")
    return Answer(reply, hits, "decompress", "model", plan.tokens, plan)


def answer_by_codec(question: str, hits: Hits, plan: Plan, codec: LatentCodec) -> Answer:
    """The reply of the codec's own reader to the hits as the plan gives them, best first."""
    if plan.bare:
        reply = codec.read([_segments(plan, codec)], [question], MAX_NEW_TOKENS)[0]
    else:
        rows = [latents.values[0] for latents in plan.latents(codec)]
        together = torch.cat(rows) if rows else torch.zeros(0, codec.dim)
        latents = Latents(together[None], torch.tensor([len(together)]), codec.fingerprint)
        # The released layout has a place for latents alone; quoted text stands before the question.
        asked = f"{plan.render()}\n\n{question}" if plan.text_tokens else question
        reply = codec.answer(latents, [asked], MAX_NEW_TOKENS)[0]
    return Answer(reply, hits, plan.took, "codec", plan.tokens, plan)


def _segments(plan: Plan, codec: LatentCodec) -> list[Segment]:
    """Texts as token ids, and latents, best first."""
    segments: list[Segment] = []
    for each in plan.memories:
        if each.mode == "decompress":
            segments.append(codec.tokenizer.encode([each.memory.text])[0])
        elif each.mode == "inject":
            segments.append(each.memory.latents(codec).values[0])
    return segments
