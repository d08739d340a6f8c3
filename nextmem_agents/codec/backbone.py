"""The causal language model under a codec: embeddings in, final-normed hidden states out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Cache = Any


class Backbone:
    """A Qwen3-architecture causal LM, seen as the few operations that a codec needs.

    Holds no state of its own between calls, so threads may share it; each caller brings its own cache.
    """

    def __init__(self, model: Any):
        self.model = model.eval().requires_grad_(False)
        self.hidden_size: int = model.config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type that activations have."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    def new_cache(self) -> Cache:
        """An empty key/value cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings [..., D] of token ids [...]."""
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def hidden(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None = None) -> Tensor:
        """Final-normed hidden states [B, S, D].

        Args:
            embeddings: [B, S, D].
            mask: int64 [B, cached + S], 1 where a position counts; attention is causal besides.
            positions: int64 [B, S].
            cache: extended in place where given.
        """
        return self.model.model(  # type: ignore[no-any-return]
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits [..., V] of hidden states [..., D], float32."""
        return self.model.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]
