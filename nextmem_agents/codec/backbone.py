"""The causal language model under a codec: embeddings in, final-normed hidden states out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nextmem_agents.codec.special_tokens import SpecialTokens

Cache = Any


class Backbone:
    """A Qwen3-architecture causal LM in one role (encoder or decoder), as the few operations a codec needs.

    A codec with adapters has two, which are two module trees over one set of weights (:func:`shared_view`);
    one without adapters has one, for both roles. Holds no state of its own between calls, so threads may
    share it; each caller brings its own cache.
    """

    def __init__(self, model: Any, special_tokens: SpecialTokens | None = None):
        self.model = model.eval().requires_grad_(False)
        self.special_tokens = special_tokens
        self.hidden_size: int = model.config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type that activations have."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def in_4bit(self) -> bool:
        """Whether the weights were loaded in 4 bits."""
        return bool(getattr(self.model, "is_loaded_in_4bit", False))

    def new_cache(self) -> Cache:
        """An empty key/value cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of a prompt's token ids [...]."""
        embeddings = self.embed_generated(ids)
        return embeddings if self.special_tokens is None else self.special_tokens.add(ids, embeddings)

    def embed_generated(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids [...] that the model itself produced, or would have."""
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def hidden(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Final-normed hidden states [B, S, D].

        Args:
            embeddings: [B, S, D].
            mask: int64 [B, cached + S], 1 where a position counts; attention is causal besides.
            positions: int64 [B, S].
            cache: extended in place where given.
        """
        states: Tensor = self.model.model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return states.to(self.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V] of hidden states [..., D], float32."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits.to(self.device, torch.float32)


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
