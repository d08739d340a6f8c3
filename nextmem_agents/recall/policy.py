"""The mode policy: which memories a model is given as text and which as latents, decided before it is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.codec.latents import Latents
from nextmem_agents.errors import CannotAnswer, InvalidArgument
from nextmem_agents.recall.budget import TokenCounter
from nextmem_agents.recall.rendering import Block, lay_out

if TYPE_CHECKING:
    from nextmem_agents.recall.hits import Memory

Mode = Literal["auto", "decompress", "inject", "mixed"]
MODES: tuple[Mode, ...] = ("auto", "decompress", "inject", "mixed")

MIN_FIDELITY = 0.9
"""Memories whose latents carry less of their tokens than this go in as text, in ``auto`` and ``mixed``; a model with a
``min_fidelity`` of its own (``ChatNextMem``) has that."""
TEXT_SHARE = 0.5
"""What ``mixed`` gives as text: the best memories, at most this share of them, in at most this share of the budget."""


@dataclass(frozen=True, eq=False)
class Planned:
    """What is to become of one memory.

    Attributes:
        memory: the memory.
        mode: ``"decompress"`` (text), ``"inject"`` (latents), or ``"leave"`` where it does not go in.
        why: in words.
        tokens: what it takes of the model's context: tokens of text, the block's heading with the first, or positions
            of latents; 0 if it is left.
    """

    memory: Memory
    mode: Literal["decompress", "inject", "leave"]
    why: str
    tokens: int


@dataclass(frozen=True, eq=False)
class Plan:
    """How memories are to be given to a model, to be read before it is carried out.

    Attributes:
        memories: all of them, best first.
        mode: what was asked for.
        max_tokens: the budget of text and latents together; None for none.
        counter: what counted the tokens of text; where latents are read, the codec's own tokenizer.
        bare: whether the reader is a codec's trained one, which takes the text of memories one after another, without
            the block and its provenance; the tokens are counted so.
        block: what :meth:`render` gives.
    """

    memories: tuple[Planned, ...]
    mode: Mode
    max_tokens: int | None
    counter: TokenCounter
    bare: bool
    block: str

    @property
    def text_tokens(self) -> int:
        """Tokens of :meth:`render`; of the texts alone where they go in bare."""
        return sum(each.tokens for each in self.memories if each.mode == "decompress")

    @property
    def latent_positions(self) -> int:
        """Positions of all latents."""
        return sum(each.tokens for each in self.memories if each.mode == "inject")

    @property
    def tokens(self) -> int:
        """What the memories take of the model's context, at most ``max_tokens``."""
        return self.text_tokens + self.latent_positions

    @property
    def took(self) -> Literal["decompress", "inject", "mixed"]:
        """What it comes to: text alone, latents alone, or both."""
        modes = {each.mode for each in self.memories} - {"leave"}
        return "mixed" if len(modes) == 2 else "inject" if modes == {"inject"} else "decompress"

    def of(self, mode: Literal["decompress", "inject", "leave"]) -> list[Memory]:
        """The memories of a mode, best first."""
        return [each.memory for each in self.memories if each.mode == mode]

    def render(self) -> str:
        """The memories that go in as text: quoted, with provenance, for a *user* message; empty if there are none."""
        return self.block

    def latents(self, codec: LatentCodec) -> list[Latents]:
        """The latents of those that are injected, one row each, best first.

        Raises:
            DamagedRecord: a memory's stored bytes no longer check out.
        """
        return [memory.latents(codec) for memory in self.of("inject")]

    def __str__(self) -> str:
        lines = [
            f"{each.mode:<10} {each.tokens:>5} tokens  {each.memory.id}: {each.why}" for each in self.memories
        ]
        budget = "no budget" if self.max_tokens is None else f"of {self.max_tokens}"
        text = f"{self.text_tokens} tokens of text ({self.counter.source})"
        return "\n".join([*lines, f"{text} + {self.latent_positions} of latents, {budget}"])


def codec_of(model: object) -> LatentCodec | None:
    """The codec whose latents a model reads: its own, if it is a codec or an adapter over one's backbone."""
    known = model if isinstance(model, LatentCodec) else getattr(model, "codec", None)
    return known if isinstance(known, LatentCodec) else None


def answers_unasked(codec: LatentCodec) -> bool:
    """Whether the codec's own reader answers in ``auto`` where no model is given, and not a sentence that is quoted.

    ``CodecConfig.answers_unasked`` says so. Where it does not: a backbone in the released layout, an 8B language model,
    answers; a small codec's trained reader, far weaker than any chat model on text, only when asked to.
    """
    if not codec.can_answer:
        return False
    said = codec.config.answers_unasked
    return not codec.reads_bare if said is None else said


def make_plan(
    memories: Sequence[Memory],
    counter: TokenCounter,
    *,
    model: Any = None,
    mode: Mode = "auto",
    max_tokens: int | None = None,
) -> Plan:
    """Decide of each memory how a model is given it; see ``Hits.plan``.

    Raises:
        CannotAnswer: latents are asked for, and the model cannot read those of these memories.
        DamagedRecord: a memory's stored bytes no longer check out.
        InvalidArgument: ``mode`` or ``max_tokens`` is malformed.
    """
    if mode not in MODES:
        raise InvalidArgument(f"mode must be 'auto', 'decompress', 'inject' or 'mixed', not {mode!r:.80}")
    if max_tokens is not None and (
        isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 0
    ):
        raise InvalidArgument(f"max_tokens is a whole number from 0, or None, not {max_tokens!r:.80}")
    codec = codec_of(model)
    if mode == "decompress":
        return _as_text(memories, counter, mode, max_tokens, "asked for")
    reads = codec is not None and all(memory.is_of(codec) for memory in memories)
    # A chat model over the backbone reads what it is given; a codec by itself only in the layout it was trained on.
    # A span reader reads text better than latents, and is given latents only if asked.
    untrained = mode == "auto" and isinstance(model, LatentCodec) and not model.backbone_answers
    if codec is None or not reads or (untrained and not model.reads_bare):
        if mode != "auto":
            raise CannotAnswer(
                "latents can be injected into their codec's own backbone only; leave model out, or give its prompt "
                "text with mode='decompress'"
            )
        return _as_text(memories, counter, mode, max_tokens, "the model does not read these latents")
    own = TokenCounter(f"codec:{codec.config.name}", codec.count_tokens)
    # A trained reader knows memories one after another, and no block around them.
    bare = isinstance(model, LatentCodec) and codec.reads_bare
    least = float(getattr(model, "min_fidelity", MIN_FIDELITY))
    as_text = "the span reader reads text better than latents" if untrained else None
    return _Planner(own, mode, max_tokens, codec, bare, least, as_text).plan(memories)


def _as_text(
    memories: Sequence[Memory], counter: TokenCounter, mode: Mode, max_tokens: int | None, why: str
) -> Plan:
    """All as text, byte for byte the block that :func:`~nextmem_agents.recall.rendering.render` makes."""
    block = lay_out(memories, counter, max_tokens)
    cost: dict[int, int] = {}
    partial, before = Block(), 0
    for i in block.whole:
        partial = partial.with_memory(memories[i], i)
        now = counter(partial.text)
        cost[i], before = now - before, now
    planned = []
    for i, memory in enumerate(memories):
        if i in cost:
            planned.append(Planned(memory, "decompress", why, cost[i]))
        elif i == block.cut:
            cut = f"{why}; no memory fits whole, this one is cut"
            planned.append(Planned(memory, "decompress", cut, counter(block.text)))
        else:
            planned.append(Planned(memory, "leave", "does not fit the budget", 0))
    return Plan(tuple(planned), mode, max_tokens, counter, False, block.text)


class _Planner:
    """Decides of one memory after the other, best first, for a model that reads latents."""

    def __init__(
        self,
        counter: TokenCounter,
        mode: Mode,
        max_tokens: int | None,
        codec: LatentCodec,
        bare: bool,
        least: float,
        as_text: str | None = None,
    ):
        self._counter = counter
        self._mode = mode
        self._max_tokens = max_tokens
        self._codec = codec
        self._bare = bare
        self._least = least
        self._reason_for_text = as_text
        self._block = Block()
        self._text_tokens = 0
        self._positions = 0

    def plan(self, memories: Sequence[Memory]) -> Plan:
        """The plan for all of them."""
        # The best half; of one memory, the one.
        best = -(-len(memories) // 2) if self._mode == "mixed" else 0
        planned = tuple(self._one(memory, i < best) for i, memory in enumerate(memories))
        return Plan(planned, self._mode, self._max_tokens, self._counter, self._bare, self._block.text)

    def _one(self, memory: Memory, among_best: bool) -> Planned:
        """Text where that is wanted and fits, else latents where they carry it and fit."""
        if among_best:
            limit = None if self._max_tokens is None else int(self._max_tokens * TEXT_SHARE)
            as_text = self._as_text(memory, "among the best evidence", limit)
            if as_text is not None:
                return as_text
        carried, why = self._carried(memory)
        if not carried:
            return self._as_text(memory, why, self._max_tokens) or Planned(
                memory, "leave", f"{why}; no room", 0
            )
        positions = memory.positions(self._codec)
        if not self._has_room(positions):
            return Planned(memory, "leave", "does not fit the budget", 0)
        self._positions += positions
        return Planned(memory, "inject", why, positions)

    def _carried(self, memory: Memory) -> tuple[bool, str]:
        if self._reason_for_text is not None:
            return False, self._reason_for_text
        if self._mode == "inject":
            return True, "asked for"
        fidelity = memory.fidelity
        if fidelity is None:
            return False, "kept literally, without latents"
        if fidelity < self._least:
            return False, f"its latents do not carry it: fidelity {fidelity:.3f}"
        return True, f"its latents carry it: fidelity {fidelity:.3f}"

    def _as_text(self, memory: Memory, why: str, limit: int | None) -> Planned | None:
        longer = self._block.with_memory(memory, len(self._block.whole))
        total = self._text_tokens + self._counter(memory.text) if self._bare else self._counter(longer.text)
        cost = total - self._text_tokens
        if (limit is not None and total > limit) or not self._has_room(cost):
            return None
        self._block, self._text_tokens = longer, total
        return Planned(memory, "decompress", why, cost)

    def _has_room(self, tokens: int) -> bool:
        return self._max_tokens is None or self._text_tokens + self._positions + tokens <= self._max_tokens
