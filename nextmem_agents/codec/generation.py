"""Text from a prompt of tokens and latents, one piece after another: the backbone as a chat model.

It is the codec's *reader* that generates: the decoder (backbone + stage 1, where the codec has adapters), with the
adapter that was trained to answer, where there is one. Not the backbone without stage 1: latents are the encoder's
words for the decoder, and only what was trained on them can read them. The released code answers with this role too.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nextmem_agents.codec.backbone import Backbone
from nextmem_agents.codec.cache import Cache
from nextmem_agents.codec.injection import Segment, embed_segment, prompt_positions
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.codec.own_settings import own_settings
from nextmem_agents.errors import EmptyText, InvalidArgument, TextTooLong

Part = Sequence[int] | Latents
"""Part of a prompt: token ids, or latents of the same codec, whose rows follow one another."""

Finish = Literal["stop", "length"]

_ROOM = 256  # new tokens for which a cache is made at first; it grows with longer replies


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when to end.

    Attributes:
        max_new_tokens: at most so many tokens are generated.
        temperature: 0 takes the likeliest token each time (greedy).
        top_p: draws among the likeliest tokens whose probabilities reach this sum (Holtzman et al., 2020); 1: all.
        seed: makes draws repeatable, on every device alike; None: each call draws differently.
        stop: strings that end the text where the first of them begins; they are not part of it.
        ends: token ids that end the text besides the codec's own, such as ``<|im_end|>``'s.

    Raises:
        InvalidArgument: a value is out of range.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise InvalidArgument(
                f"max_new_tokens must be a whole number of at least 1, not {self.max_new_tokens!r}"
            )
        if not 0 <= self.temperature < float("inf"):
            raise InvalidArgument(f"temperature must be 0 (greedy) or more, not {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise InvalidArgument(f"top_p must be above 0 and at most 1, not {self.top_p!r}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise InvalidArgument(f"stop takes strings, none of them empty, not {self.stop!r}")


@dataclass(frozen=True)
class Usage:
    """Positions that a generation took in the model's context.

    Attributes:
        prompt_tokens: of the prompt, token ids.
        latent_positions: of the prompt, latents.
        new_tokens: generated ones, with the one that ended the text.
    """

    prompt_tokens: int
    latent_positions: int
    new_tokens: int


@dataclass(frozen=True)
class Piece:
    """What one step adds to the text; the last piece says why it ends.

    Attributes:
        text: may be empty: a character can take several tokens, and what may turn out to be a stop string is held
            back.
        finish: ``"stop"`` (an end token or a stop string) or ``"length"``, of the last piece; None before.
        usage: so far.
    """

    text: str
    finish: Finish | None
    usage: Usage


@dataclass(frozen=True)
class Completion:
    """A whole generated text; fields as in :class:`Piece`."""

    text: str
    finish: Finish
    usage: Usage


def generate(codec: LatentCodec, prompt: Sequence[Part], sampling: Sampling | None = None) -> Completion:
    """The whole text that :func:`stream` gives in pieces; raises as that does."""
    pieces = list(stream(codec, prompt, sampling))
    last = pieces[-1]
    return Completion("".join(piece.text for piece in pieces), last.finish or "length", last.usage)


@own_settings()
def stream(codec: LatentCodec, prompt: Sequence[Part], sampling: Sampling | None = None) -> Iterator[Piece]:
    """Continue a prompt, token by token.

    Each call has a cache and a random generator of its own, so threads may share the codec, and the iterator may be
    advanced from any thread, or left before its end. The prompt is checked at once, before the first step.

    Args:
        codec: whose backbone generates.
        prompt: token ids and latents in order; latents stand at the positions of
            :func:`nextmem_agents.codec.injection.prompt_positions`.
        sampling: greedy by default.

    Returns:
        At least one piece; the last, and only the last, has ``finish``.

    Raises:
        CodecMismatch: latents are another codec's; nothing was computed.
        EmptyText: the prompt is empty.
        TextTooLong: the prompt leaves no room in the backbone's context.
    """
    chosen = sampling or Sampling()
    segments = _segments(codec, prompt)
    room = _context(codec.reader) - (int(prompt_positions(codec.config, segments)[-1]) + 1)
    if room < 1:
        raise TextTooLong(
            f"the prompt takes {_context(codec.reader) - room} positions, and the backbone of "
            f"{codec.config.name!r} has {_context(codec.reader)}: recall fewer memories, or shorten the messages"
        )
    return _steps(codec, segments, chosen, min(room, chosen.max_new_tokens))


@torch.inference_mode()
def next_token_logits(codec: LatentCodec, prompt: Sequence[Part]) -> Tensor:
    """Logits of the first token after a prompt, float32 [V]; raises as :func:`stream` does, for any length."""
    segments = _segments(codec, prompt)
    return _prefill(codec, segments, codec.reader.new_cache(sum(map(len, segments))))[0]


@own_settings()
def embed_prompt(codec: LatentCodec, prompt: Sequence[Part]) -> Tensor:
    """The input embeddings of a prompt, [S, D] in the reader's dtype, on its device.

    Latents are scaled as the codec demands (``latent_scale``), so that the tensor can go to any engine that runs the
    same weights and takes prompt embeddings. Raises as :func:`stream` does, for any length.
    """
    return torch.cat([embed_segment(codec.reader, codec.config, part) for part in _segments(codec, prompt)])


def _segments(codec: LatentCodec, prompt: Sequence[Part]) -> list[Segment]:
    segments: list[Segment] = []
    for part in prompt:
        if isinstance(part, Latents):
            codec.check(part)
            segments += [row[:n] for row, n in zip(part.values, part.lengths.tolist(), strict=True)]
        else:
            segments.append(list(part))
    segments = [segment for segment in segments if len(segment)]
    if not segments:
        raise EmptyText("the prompt is empty; there is nothing to continue")
    return segments


def _context(backbone: Backbone) -> int:
    return backbone.context


@own_settings()
def _prefill(codec: LatentCodec, segments: Sequence[Segment], cache: Cache) -> tuple[Tensor, Tensor]:
    """Logits [V] of what follows a prompt, and its last position [1, 1]."""
    backbone = codec.reader
    embeddings = torch.cat([embed_segment(backbone, codec.config, segment) for segment in segments])[None]
    positions = prompt_positions(codec.config, segments)[None].to(backbone.device)
    hidden = backbone.hidden(embeddings, torch.ones_like(positions), positions, cache, last=True)
    return backbone.logits(hidden[:, 0])[0], positions[:, -1:]


@own_settings()
def _step(backbone: Backbone, token: int, position: Tensor, cache: Cache) -> Tensor:
    """Logits [V] of what follows a token that was drawn, at its position [1, 1]."""
    fed = backbone.embed_generated(torch.tensor([[token]], device=backbone.device))
    return backbone.logits(backbone.step(fed, position, cache)[:, 0])[0]


@torch.inference_mode()
def _steps(
    codec: LatentCodec, segments: Sequence[Segment], sampling: Sampling, steps: int
) -> Iterator[Piece]:
    backbone = codec.reader
    latents = sum(len(segment) for segment in segments if isinstance(segment, Tensor))
    tokens = sum(map(len, segments)) - latents
    ends = codec.config.ends | sampling.ends
    draw = _Draw(sampling)
    text = _Text(codec, sampling.stop)
    cache = backbone.new_cache(tokens + latents + min(steps, _ROOM))
    logits, position = _prefill(codec, segments, cache)
    for n in range(1, steps + 1):
        token = draw(logits)
        usage = Usage(tokens, latents, n)
        if token in ends:
            yield Piece(text.rest(), "stop", usage)
            return
        new = text.add(token)
        if text.stopped or n == steps:
            yield Piece(
                new if text.stopped else new + text.rest(), "stop" if text.stopped else "length", usage
            )
            return
        yield Piece(new, None, usage)
        position = position + 1
        logits = _step(backbone, token, position, cache)


class _Draw:
    """One token id from logits [V]."""

    def __init__(self, sampling: Sampling):
        self._sampling = sampling
        # On the CPU, so that a seed means the same on every device.
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        # The difference to the best first: at a small temperature the quotient itself would overflow.
        scaled = (logits.cpu().double() - logits.max().cpu()) / self._sampling.temperature
        probabilities, ids = scaled.softmax(-1).sort(descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before >= self._sampling.top_p] = 0
        return int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])


class _Text:
    """Tokens to text as they come: whole characters only, and nothing that may become a stop string."""

    def __init__(self, codec: LatentCodec, stop: Sequence[str]):
        self._to_bytes = codec.tokenizer.to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        return self._take(self._decoder.decode(self._to_bytes([token])))

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        text = self._take(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _take(self, new: str) -> str:
        held = self._held + new
        found = [at for stop in self._stop if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)]
        keep = max((_overlap(held, stop) for stop in self._stop), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many last characters of a text are the first ones of a stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
