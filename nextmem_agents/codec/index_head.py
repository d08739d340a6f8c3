"""The index head: what a codec's latents are compared by.

Latents carry a text to the last character, and their raw similarity says little about its subject (mean-pooled
latents of a codec trained to reconstruct alone find next to nothing). A small head reads from each latent what a
search needs: a few *term vectors*, compared by late interaction (MaxSim; Khattab & Zaharia, "ColBERT",
arXiv 2004.12832), and a share of the one vector per text that an index can hold.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nextmem_agents.errors import CheckpointError

FILE = "index_head.safetensors"


class IndexHead(nn.Module):
    """Two linear maps over one hidden layer, applied to every latent by itself.

    Args:
        dim: D, the width of a latent.
        terms_per_latent: m, the term vectors of one latent.
        term_size: their width.
        index_size: width of the pooled vector.

    The norm of a query's term vector is its weight; a passage's are compared by direction alone.
    """

    def __init__(self, dim: int, terms_per_latent: int, term_size: int, index_size: int):
        super().__init__()
        width = 2 * dim
        self.term_size = term_size
        self.hidden = nn.Linear(dim, width)
        self.to_terms = nn.Linear(width, terms_per_latent * term_size, bias=False)
        self.to_index = nn.Linear(width, index_size, bias=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [..., D] to term vectors [..., m, term_size] and shares of the pooled vector [..., index_size]."""
        hidden = F.silu(self.hidden(latents))
        return self.to_terms(hidden).unflatten(-1, (-1, self.term_size)), self.to_index(hidden)

    def terms(self, latents: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Term vectors of padded latents [B, L, D], [B, L * m, term_size], and how many each row has, int64 [B]."""
        valid = torch.arange(latents.shape[1], device=latents.device) < lengths[:, None]
        # Padding is most of a batch of short texts, and is not computed.
        found = self.to_terms(F.silu(self.hidden(latents[valid]))).unflatten(-1, (-1, self.term_size))
        out = found.new_zeros(*latents.shape[:2], *found.shape[1:])
        out[valid] = found
        return out.flatten(1, 2), lengths * found.shape[1]

    def pooled(self, latents: Tensor, lengths: Tensor) -> Tensor:
        """One vector of length 1 per row of padded latents [B, L, D]: [B, index_size]."""
        _, shares = self(latents)
        valid = torch.arange(latents.shape[1], device=latents.device) < lengths[:, None]
        return F.normalize((shares * valid[..., None]).sum(1), dim=-1)

    def save(self, folder: Path) -> None:
        """Write ``index_head.safetensors``, in bfloat16."""
        tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, folder / FILE, metadata={"term_size": str(self.term_size)})

    @classmethod
    def load(cls, folder: Path) -> IndexHead:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or its shapes do not fit together.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / FILE
        try:
            tensors = load_file(path)
            with safe_open(path, framework="pt") as file:
                term_size = int(file.metadata()["term_size"])
            width, dim = tensors["hidden.weight"].shape
            terms, index_size = tensors["to_terms.weight"].shape[0], tensors["to_index.weight"].shape[0]
            head = cls(dim, terms // term_size, term_size, index_size)
            head.load_state_dict({k: v.float() for k, v in tensors.items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} cannot be read as an index head: {error}") from error
        if width != 2 * dim:
            raise CheckpointError(f"{path}: a hidden layer of {width}, where {2 * dim} is meant")
        return head.eval().requires_grad_(False)


def late_interaction(queries: Tensor, query_lengths: Tensor, passages: Tensor, lengths: Tensor) -> Tensor:
    """MaxSim of padded term vectors, weighted by the norms of the query's: [Q, T, d] and [B, S, d] to [Q, B].

    >>> late_interaction(torch.eye(2)[None], torch.tensor([2]), torch.eye(2)[:, None], torch.tensor([1, 1]))
    tensor([[0.5000, 0.5000]])
    """
    weight = queries.norm(dim=-1)
    weight = weight * (torch.arange(queries.shape[1], device=queries.device) < query_lengths[:, None])
    directions, candidates = F.normalize(queries, dim=-1), F.normalize(passages, dim=-1)
    outside = torch.arange(passages.shape[1], device=passages.device) >= lengths[:, None]
    rows = []
    for query, share in zip(directions, weight / weight.sum(1, keepdim=True), strict=True):
        cosine = (candidates @ query.T).masked_fill(outside[..., None], -1.0)  # [B, S, T]
        rows.append(cosine.amax(1) @ share)
    return torch.stack(rows) if rows else queries.new_zeros(0, len(passages))
