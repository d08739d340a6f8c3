"""Decoding and encoding in tensors of fixed shape, so that a CUDA graph can repeat a step without the processor.

A step of a large model on a GPU is a thousand small launches, which take several times as long as reading its weights.
Captured once as a graph, a step is one launch. That needs fixed shapes: rows sit in *slots*, each with a place of its
own in the cache, and a row that is finished leaves its slot to the next that waits (continuous batching).

On a CPU the same steps run without a graph, and tests hold them against the plain loops. No GPU has run them yet.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nextmem_agents.codec.cache import Cache, DynamicCache
from nextmem_agents.codec.config import CodecConfig
from nextmem_agents.codec.repair import forced_tokens

if TYPE_CHECKING:
    from nextmem_agents.codec.backbone import Backbone

_log = logging.getLogger(__name__)

Prompts = Callable[[list[int]], "tuple[Tensor, Tensor, Cache]"]
"""From row numbers to their prompts' last hidden states [n, D] and positions [n, 1], and the cache that they filled."""

SLOTS = 64
WAITING = 1024
"""Rows that are given to :meth:`Slots.decode` together, most of which wait for a slot."""
_CAPACITY = 64  # of the cache, rounded up to a multiple of this: few sizes, so that few graphs are captured
_WARM_UPS = 3
_KEPT_LOOPS = 2  # of each kind: the cache of 64 slots of Qwen3-8B takes 2 GB


class SlotCache:
    """Keys and values of S slots with room for T positions each; what transformers' attention reads and extends.

    Attributes:
        at: int64 [S], where each slot's next position is written.
        bias: [S, 1, 1, T], added to the scores: 0 where a slot sees, the least number elsewhere.
    """

    is_compileable = False

    def __init__(self, slots: int, capacity: int, like: Tensor):
        self.at = torch.zeros(slots, dtype=torch.int64, device=like.device)
        self.unseen = torch.finfo(like.dtype).min
        self.bias = like.new_full((slots, 1, 1, capacity), self.unseen)
        self._rows = torch.arange(slots, device=like.device)
        self._capacity = capacity
        self._held: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one position [S, heads, 1, width] of a layer; returns that layer's keys and values, whole."""
        if layer == len(self._held):
            shape = (*keys.shape[:2], self._capacity, keys.shape[3])
            self._held.append((keys.new_zeros(shape), values.new_zeros(shape)))
        held = self._held[layer]
        for into, new in zip(held, (keys, values), strict=True):
            into[self._rows, :, self.at] = new[:, :, 0]
        return held

    def get_seq_length(self, *_: int) -> int:
        """Nothing that transformers should count: positions and mask are given to it."""
        return 0

    def see(self) -> None:
        """Let each slot see the position that comes next."""
        self.bias.scatter_(3, self.at[:, None, None, None], 0.0)

    def admit(self, slots: Tensor, prompt: Cache) -> None:
        """Put prompts into slots, with the mask [n, T] that they were read under."""
        assert isinstance(prompt, DynamicCache)  # noqa: S101 - narrows the type
        length = prompt.mask.shape[1]
        for (keys, values), layer in zip(self._held, prompt.inner.layers, strict=True):
            keys[slots, :, :length], values[slots, :, :length] = layer.keys, layer.values
        bias = self.bias.new_full((len(slots), 1, 1, self._capacity), self.unseen)
        bias[:, 0, 0, :length] = torch.where(prompt.mask.bool(), 0.0, self.unseen).to(bias.dtype)
        self.bias[slots] = bias
        self.at[slots] = length


class _Loop(ABC):
    """One more position for every slot, again and again.

    What a step reads and writes are tensors that stay where they are; a subclass says what is fed back.
    """

    def __init__(self, backbone: Backbone, slots: int, capacity: int):
        self._backbone = backbone
        like = backbone.embed_generated(torch.zeros(slots, 1, dtype=torch.int64, device=backbone.device))
        self.fed = torch.zeros_like(like)  # [S, 1, D]
        self.position = torch.zeros(slots, 1, dtype=torch.int64, device=like.device)
        self.cache = SlotCache(slots, capacity, like)
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, steps: int) -> None:
        """Take steps."""
        for _ in range(steps):
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()

    def prepare(self) -> None:
        """Make what the first step makes, and on a GPU capture a step; every slot has to be admitted after it."""
        self._step()
        if self.fed.device.type != "cuda":
            return
        try:
            self._capture()
        except RuntimeError as error:
            _log.warning("a step could not be captured as a CUDA graph, and runs without: %s", error)

    def _capture(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self._graph = graph

    def _hidden(self) -> Tensor:
        """Final-normed hidden states [S, 1, D] of the next position, which is then written and seen."""
        self.cache.see()
        states: Tensor = self._backbone.model.model(
            inputs_embeds=self.fed,
            attention_mask={"full_attention": self.cache.bias},
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return states

    @abstractmethod
    def _step(self) -> None:
        """Take a step from what the tensors hold, and leave in them what the next one takes."""


class TokenLoop(_Loop):
    """Greedy decoding with repairs: each slot's best token, or the one that is forced, is written and fed back.

    Attributes:
        taken: int64 [S], tokens that each slot has.
        written: int64 [S, N], those tokens.
        forced: int64 [S, N], the token to take at a step in place of the best one; -1: none.
    """

    def __init__(self, backbone: Backbone, slots: int, capacity: int, longest: int):
        super().__init__(backbone, slots, capacity)
        device = self.fed.device
        self._slots = torch.arange(slots, device=device)
        self.taken = torch.zeros(slots, dtype=torch.int64, device=device)
        # A slot that waits goes on taking steps: they fall on the last column, which is nobody's.
        self.written = torch.zeros(slots, longest + 1, dtype=torch.int64, device=device)
        self.forced = torch.full((slots, longest + 1), -1, dtype=torch.int64, device=device)
        self._last, self._full = longest, capacity - 1

    def take(self, slots: Tensor, hidden: Tensor) -> None:
        """The next token of these slots, from hidden states [n, D]."""
        best = self._backbone.logits(hidden).argmax(-1)
        column = self.taken[slots]
        forced = self.forced[slots, column]
        best = torch.where(forced >= 0, forced, best)
        self.written[slots, column] = best
        self.taken[slots] = (column + 1).clamp(max=self._last)
        self.fed[slots] = self._backbone.embed_generated(best[:, None])

    def _step(self) -> None:
        hidden = self._hidden()
        self.position += 1
        self.cache.at.copy_((self.cache.at + 1).clamp(max=self._full))
        self.take(self._slots, hidden[:, 0])


class LatentLoop(_Loop):
    """Latents one after another: each hidden state, times the codec's scale, is what is fed next.

    Attributes:
        latents: [S, N, D] in the model's dtype; latent j is written at j.
        step: int64 [1], the number of the next one.
        positions: int64 [S, N], where latent j stands.
    """

    def __init__(self, backbone: Backbone, scale: float, slots: int, capacity: int, longest: int):
        super().__init__(backbone, slots, capacity)
        self._scale = scale
        self.latents = self.fed.new_zeros(slots, longest, self.fed.shape[2])
        self.step = torch.zeros(1, dtype=torch.int64, device=self.fed.device)
        self.positions = torch.zeros(slots, longest, dtype=torch.int64, device=self.fed.device)

    def _step(self) -> None:
        self.position.copy_(self.positions.index_select(1, self.step))
        hidden = self._hidden()
        self.cache.at += 1
        self.latents.index_copy_(1, self.step, hidden)
        self.fed.copy_(hidden * self._scale)
        self.step.copy_((self.step + 1) % self.latents.shape[1])


class Slots:
    """The loops of one backbone, by size, used by one thread at a time; those not used for longest are let go."""

    def __init__(self, backbone: Backbone):
        self._backbone = backbone
        self._lock = threading.Lock()
        self._token_loop = lru_cache(_KEPT_LOOPS)(self._make_token_loop)
        self._latent_loop = lru_cache(_KEPT_LOOPS)(self._make_latent_loop)

    def _make_token_loop(self, slots: int, capacity: int, longest: int) -> TokenLoop:
        loop = TokenLoop(self._backbone, slots, capacity, longest)
        loop.prepare()
        return loop

    def _make_latent_loop(self, scale: float, slots: int, capacity: int, longest: int) -> LatentLoop:
        loop = LatentLoop(self._backbone, scale, slots, capacity, longest)
        loop.prepare()
        return loop

    @torch.inference_mode()
    def decode(
        self,
        prompts: Prompts,
        width: int,
        steps: Sequence[int],
        repairs: Sequence[Mapping[int, int]] | None,
    ) -> list[list[int]]:
        """So many greedy tokens of each row, with its repairs put in.

        Args:
            prompts: reads the prompts of some rows.
            width: the most positions of a prompt.
            steps: tokens of each row, at least 1.
            repairs: per row, step → token id that is taken in place of the argmax.
        """
        longest = _rounded(max(steps))
        n = min(SLOTS, _power_of_two(len(steps)))
        capacity = _rounded(width + longest)
        with self._lock:
            return _run(
                self._token_loop(n, capacity, longest), n, prompts, steps, repairs or [{}] * len(steps)
            )

    @torch.inference_mode()
    def encode(self, config: CodecConfig, first: Tensor, cache: Cache, positions: Tensor) -> Tensor:
        """The latents [B, L, D] that follow on a prompt, the first among them.

        Args:
            config: the codec's configuration.
            first: [B, 1, D], latent 1.
            cache: holds the prompt.
            positions: int64 [B, L], where the latents stand.
        """
        assert isinstance(cache, DynamicCache)  # noqa: S101 - narrows the type
        batch, steps = positions.shape
        longest = max(steps, config.max_latents)
        slots, capacity = _power_of_two(batch), _rounded(int(cache.mask.shape[1]) + longest)
        with self._lock:
            loop = self._latent_loop(config.latent_scale, slots, capacity, longest)
            loop.cache.admit(torch.arange(batch, device=first.device), cache)
            loop.latents[:batch, 0] = first[:, 0]
            loop.fed[:batch] = first * config.latent_scale
            loop.positions[:batch, :steps] = positions
            loop.step.fill_(1)
            # Slots beyond the batch write where nothing reads.
            loop.cache.at[batch:] = 0
            loop.run(steps - 1)
            return loop.latents[:batch, :steps].clone()


def _run(
    loop: TokenLoop,
    slots: int,
    prompts: Prompts,
    steps: Sequence[int],
    repairs: Sequence[Mapping[int, int]],
) -> list[list[int]]:
    device = loop.fed.device
    # The longest first, so that the last to be admitted are soon done.
    waiting = sorted(range(len(steps)), key=lambda i: steps[i])
    free, left = list(range(slots)), dict[int, tuple[int, int]]()  # slot → row, steps to go
    results: list[list[int]] = [[] for _ in steps]
    while waiting or left:
        if waiting and free:
            rows = [waiting.pop() for _ in range(min(len(free), len(waiting)))]
            chosen, free = free[: len(rows)], free[len(rows) :]
            hidden, position, cache = prompts(rows)
            places = torch.tensor(chosen, device=device)
            loop.cache.admit(places, cache)
            loop.position[places] = position + 1
            loop.taken[places] = 0
            loop.forced[places] = forced_tokens([repairs[i] for i in rows], loop.forced.shape[1], device)
            loop.take(places, hidden)
            left |= {slot: (row, steps[row] - 1) for slot, row in zip(chosen, rows, strict=True)}
        # Steps run without a look at what they make, up to where a slot gets free that somebody waits for.
        togo = [n for _, n in left.values()]
        n = min(togo) if waiting else max(togo)
        loop.run(n)
        left = {slot: (row, togo - n) for slot, (row, togo) in left.items()}
        done = [slot for slot, (_, togo) in left.items() if togo <= 0]
        tokens = loop.written[torch.tensor(done, device=device)].tolist()
        for slot, row in zip(done, tokens, strict=True):
            number, _ = left.pop(slot)
            results[number] = row[: steps[number]]
        free += done
    return results


def _rounded(n: int) -> int:
    return -(-n // _CAPACITY) * _CAPACITY


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
