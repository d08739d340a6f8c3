"""The tokens that a codec adds to its backbone's vocabulary, and what they are as input embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nextmem_agents.errors import CheckpointError

FILE = "special_tokens.safetensors"


@dataclass(frozen=True, eq=False)
class SpecialTokens:
    """Two tables over n token ids, as released: rows of the embedding matrix, and what prompts add to them.

    In a prompt, token i is ``embeddings[i] + additions[i]``; fed back after it was generated, it is
    ``embeddings[i]`` alone.

    Attributes:
        ids: int64 [n].
        embeddings: [n, D], which replace those rows of the backbone's embedding matrix.
        additions: [n, D].
    """

    ids: Tensor
    embeddings: Tensor
    additions: Tensor

    def __post_init__(self) -> None:
        shape = (*self.ids.shape, *self.embeddings.shape[1:])
        if (
            self.ids.ndim != 1
            or len(shape) != 2
            or self.embeddings.shape != shape
            or self.additions.shape != shape
        ):
            raise CheckpointError(
                f"special tokens of shapes {tuple(self.ids.shape)}, {tuple(self.embeddings.shape)} and "
                f"{tuple(self.additions.shape)} contradict each other; they are [n], [n, D] and [n, D]"
            )

    def tensors(self) -> dict[str, Tensor]:
        """The three by name."""
        return {"ids": self.ids, "embeddings": self.embeddings, "additions": self.additions}

    def save(self, folder: Path) -> None:
        """Write ``special_tokens.safetensors``."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors().items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> SpecialTokens:
        """Read ``special_tokens.safetensors``.

        Raises:
            CheckpointError: it is damaged, or lacks a table.
        """
        try:
            tables = load_file(folder / FILE)
            return cls(tables["ids"], tables["embeddings"], tables["additions"])
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{folder / FILE} cannot be read: {error!r}") from error

    def place(self, model: Any) -> None:
        """Put the rows into a model's embedding matrix.

        Raises:
            CheckpointError: the matrix has no such rows, or is of another width.
        """
        weight = model.get_input_embeddings().weight
        rows, width = weight.shape
        if self.embeddings.shape[1] != width or not 0 <= int(self.ids.min()) <= int(self.ids.max()) < rows:
            raise CheckpointError(
                f"special tokens {self.ids.tolist()} of width {self.embeddings.shape[1]} do not fit the "
                f"backbone's "
                f"{rows} x {width} embeddings: they belong to another one"
            )
        with torch.no_grad():
            weight[self.ids.to(weight.device)] = self.embeddings.to(weight.device, weight.dtype)

    def add(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """Prompt embeddings [..., D] of token ids [...] from their rows [..., D]; the sum is in the rows'
        dtype.
        """
        for i, row in zip(self.ids.tolist(), self.additions.to(embeddings), strict=True):
            embeddings = torch.where((ids == i)[..., None], embeddings + row, embeddings)
        return embeddings
