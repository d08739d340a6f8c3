"""The causal language model under a codec: embeddings in, final-normed hidden states out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nextmem_agents.codec.cache import Cache, DynamicCache, StaticCache
from nextmem_agents.codec.fused import FusedLayers, is_linear
from nextmem_agents.codec.matrix import GAINS_BY_BFLOAT16, Matrix, matrix
from nextmem_agents.codec.slots import Slots
from nextmem_agents.codec.special_tokens import SpecialTokens
from nextmem_agents.codec.weights import Qwen3Weights

_FEW_ROWS = 64
_SMALL = 512  # hidden size; at 256, batches side by side are 1.1 to 1.3 times as fast, at 768 slower
_MAX_COPIED = 2**24  # values of an output matrix of which a second copy is kept


class Backbone:
    """A Qwen3-architecture causal LM in one role (encoder or decoder), as the few operations a codec needs.

    A codec with adapters has two, which are two module trees over one set of weights (:func:`shared_view`);
    one without adapters has one, for both roles. Holds no state of its own between calls, so threads may
    share it; each caller brings its own cache.

    Args:
        model: a Qwen3ForCausalLM, or its :class:`Qwen3Weights`, to be fused.
        special_tokens: what is added to the embeddings of the codec's own tokens.
        fuse: run :class:`FusedLayers` in place of the model's own forward where it can be. For weights that no
            longer change.
        rounds: multiply texts that are encoded in bfloat16, where the fused layers are float32 on a CPU.

    Attributes:
        slots: takes the steps in tensors of fixed shape, on a GPU; None elsewhere.
    """

    def __init__(
        self,
        model: Any,
        special_tokens: SpecialTokens | None = None,
        fuse: bool = False,
        rounds: bool = False,
    ):
        self._model = model.eval().requires_grad_(False)
        self.special_tokens = special_tokens
        self.hidden_size: int = model.config.hidden_size
        self._fuse, self._rounds = fuse, rounds
        self._place()

    def _place(self) -> None:
        """What depends on where the weights are."""
        self._fused = self._fusion()
        self._head = self._transposed_head()
        self._rough_head: tuple[Tensor, float] | None = None  # made when first asked for
        self.slots = Slots(self) if self._fits_slots() else None

    def _fits_slots(self) -> bool:
        """Whether steps run in slots, which a CUDA graph can repeat."""
        config = self._model.config
        return (
            self.device.type == "cuda"
            and not self.fused
            and not self.spread
            and config._attn_implementation in ("sdpa", "eager")
            and set(config.layer_types) == {"full_attention"}
        )

    def _transposed_head(self) -> Matrix | None:
        """The output matrix as [D, V], in which one row's logits take half the time; None where the copy would be
        large.
        """
        head = self._model.get_output_embeddings()
        if self._fused is None or not is_linear(head) or head.bias is not None:
            return None
        weight: Tensor = head.weight.detach()
        if weight.dtype == torch.bfloat16:
            return matrix(weight.t(), pack=weight.numel() <= _MAX_COPIED)
        return Matrix(weight.t().contiguous()) if weight.numel() <= _MAX_COPIED else None

    def _rounded_head(self, head: Matrix) -> tuple[Tensor, float]:
        """The output matrix [V, D] in bfloat16, and the error of its logits over the norm of the hidden state.

        Hidden state and logit are each rounded to 8 bits, relative 2⁻⁸, and the weight w to w'. By Cauchy and Schwarz
        that moves the logit by (2⁻⁸ ‖w‖ + ‖w - w'‖ + 2⁻⁸ ‖w‖) ‖h‖ at most, and by less than a hundredth more, which is
        what the products of these errors come to; either sum, in float32, by D 2⁻²⁴ ‖w‖ ‖h‖. Weights that were saved
        in bfloat16, as the shipped ones, are exact.
        """
        weight = head.weight.bfloat16()
        most = torch.linalg.vector_norm(head.weight, dim=0).max()
        off = torch.linalg.vector_norm(head.weight - weight, dim=0).max()
        return weight.t().contiguous(), 1.01 * float((2**-7 + len(weight) * 2**-23) * most + off)

    @property
    def model(self) -> Any:
        """The Qwen3ForCausalLM, which is made now where only its weights were read."""
        if isinstance(self._model, Qwen3Weights):
            self._model = self._model.as_transformers()
        return self._model

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens that have an embedding."""
        return int(self._model.config.vocab_size)

    @property
    def context(self) -> int:
        """The most positions that a prompt and its continuation may take."""
        return int(self._model.config.max_position_embeddings)

    def _fusion(self) -> FusedLayers | None:
        if not self._fuse or not FusedLayers.fits(self._model):
            return None
        return FusedLayers(self._model, self._rounds and self.device.type == "cpu")

    def to(self, device: str | torch.device) -> None:
        """Move the model."""
        self._model.to(device)
        # Modules that move leave the matrices they were parts of.
        self._place()

    @property
    def fused(self) -> bool:
        """Whether :class:`FusedLayers` runs, not the model's own forward."""
        return self._fused is not None

    @property
    def rounds(self) -> bool:
        """Whether a cache that allows it has prompts multiplied in bfloat16; see :meth:`new_cache`."""
        return self._fused is not None and self._fused.rounds

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self._model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type that activations have."""
        return self._model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def side_by_side(self) -> bool:
        """Whether threads do better with a batch each than together on one: on a CPU, where products are small."""
        return self.device.type == "cpu" and self.hidden_size <= _SMALL

    @property
    def in_4bit(self) -> bool:
        """Whether the weights were loaded in 4 bits."""
        return bool(getattr(self._model, "is_loaded_in_4bit", False))

    @property
    def spread(self) -> bool:
        """Whether the model lies on several devices, or where a device map put it."""
        return bool(getattr(self._model, "hf_device_map", None))

    def new_cache(self, capacity: int = 256, *, rounds: bool = False) -> Cache:
        """An empty key/value cache; ``capacity`` positions are had without growing.

        Args:
            capacity: in positions.
            rounds: what is read and written with it may be rounded to bfloat16, where the backbone was made to.
        """
        if self._fused is None:
            return DynamicCache(self.model.config)
        return self._fused.new_cache(capacity, rounds)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of a prompt's token ids [...]."""
        embeddings = self.embed_generated(ids)
        return embeddings if self.special_tokens is None else self.special_tokens.add(ids, embeddings)

    def embed_generated(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids [...] that the model itself produced, or would have."""
        return self._model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def hidden(
        self,
        embeddings: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: Cache | None = None,
        *,
        last: bool = False,
    ) -> Tensor:
        """Final-normed hidden states [B, S, D] of a prompt, or [B, 1, D] of its last position.

        Args:
            embeddings: [B, S, D].
            mask: int64 [B, S], 1 where a position counts; attention is causal besides.
            positions: int64 [B, S].
            cache: an empty one, to be filled for :meth:`step`.
            last: compute only what the last position needs.
        """
        if self._fused is not None:
            assert cache is None or isinstance(cache, StaticCache)  # noqa: S101 - narrows the type
            return self._fused.prefill(embeddings, mask, positions, cache, last)
        if isinstance(cache, DynamicCache):
            cache.mask = mask
        states = self._forward(embeddings, mask, positions, cache)
        return states[:, -1:] if last else states

    def step(self, embeddings: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Final-normed hidden states [B, S, D] of S more positions of every row.

        Args:
            embeddings: [B, S, D].
            positions: int64 [B, S].
            cache: holds what comes before, and is extended in place.
        """
        if self._fused is not None:
            assert isinstance(cache, StaticCache)  # noqa: S101 - narrows the type
            return self._fused.step(embeddings, positions, cache)
        assert isinstance(cache, DynamicCache)  # noqa: S101 - narrows the type
        cache.mask = torch.cat([cache.mask, cache.mask.new_ones(positions.shape)], 1)
        return self._forward(embeddings, cache.mask, positions, cache)

    def _forward(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None) -> Tensor:
        states: Tensor = self.model.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache.inner if isinstance(cache, DynamicCache) else None,
            use_cache=cache is not None,
        ).last_hidden_state
        return states.to(self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V] of hidden states [..., D], float32."""
        if self._head is not None:
            return self._head.times(hidden)
        head = self._model.get_output_embeddings()
        if self._fused is not None and hidden.ndim == 2 and 1 < len(hidden) <= _FEW_ROWS and is_linear(head):
            # For a few rows and a large vocabulary the product of the transposes keeps more of a processor busy.
            few: Tensor = torch.mm(head.weight, hidden.t()).t()
            return few if head.bias is None else few + head.bias
        logits: Tensor = self._model.get_output_embeddings()(hidden)
        return logits.to(self.device, torch.float32)

    def rough_logits(self, hidden: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logits [T, V] of hidden states [T, D] in bfloat16, and the most that those of a row are off, float32 [T].

        None where they take no less time than :meth:`logits`.
        """
        head = self._head
        if not GAINS_BY_BFLOAT16 or type(head) is not Matrix or head.weight.device.type != "cpu":
            return None
        if self._rough_head is None:
            self._rough_head = self._rounded_head(head)
        weight, error = self._rough_head
        return hidden.bfloat16() @ weight.t(), error * torch.linalg.vector_norm(hidden, dim=-1)

    def logits_of(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """One logit [N] each of hidden states [N, D]: that of its token, int64 [N]. Carries gradients."""
        head = self._model.get_output_embeddings()
        found: Tensor = (hidden * head.weight[tokens]).sum(-1)
        return found if head.bias is None else found + head.bias[tokens]


def shared_view(model: nn.Module) -> Any:
    """A second module tree over the very tensors of the first: what is attached to one is not seen by the
    other.
    """
    shared: list[Any] = [*model.parameters(), *model.buffers()]
    # bitsandbytes keeps a 4-bit weight's scales beside it, as an attribute that is no tensor.
    shared += [
        state for module in model.modules() if (state := getattr(module, "quant_state", None)) is not None
    ]
    return copy.deepcopy(model, {id(item): item for item in shared})
