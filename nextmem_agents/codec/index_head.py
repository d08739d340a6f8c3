"""The index head: what a codec's latents are compared by.

Latents carry a text to the last character, and their raw similarity says little about its subject (mean-pooled
latents of a codec trained to reconstruct alone find next to nothing). A small head reads from each latent what a
search needs: one *term vector* for each of its tokens, compared by late interaction (MaxSim; Khattab & Zaharia,
"ColBERT", arXiv 2004.12832), and from them the one vector per text that an index can hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nextmem_agents.codec.batches import at_once
from nextmem_agents.codec.largest import largest, nearly_largest
from nextmem_agents.codec.latents import length_mask
from nextmem_agents.codec.matrix import GAINS_BY_BFLOAT16
from nextmem_agents.errors import CheckpointError

FILE = "index_head.safetensors"
_MOST = 60.0  # the exponent of a weight: e⁶⁰ is far from what float32 holds at most
_ROWS = 64  # of logits over the vocabulary: these stay in the cache, which makes it four times as fast


class IndexHead(nn.Module):
    """Two hidden layers, applied to every latent by itself; term vectors from them, and from those the index vector.

    Args:
        dim: D, the width of a latent.
        terms_per_latent: m, the term vectors of one latent.
        term_size: their width.
        index_size: width of the index vector.
        width: of the hidden layers.
        vocabulary: V, the tokens that term vectors can name; 0 where the head was not trained to.

    The norm of a query's term vector is its weight; a passage's are compared by direction alone. Where term vectors
    name tokens, a text's index vector is the sum of the learnt vectors of those, each as far as it was read with
    certainty; else it is a sum of the latents' own shares.
    """

    def __init__(
        self,
        dim: int,
        terms_per_latent: int,
        term_size: int,
        index_size: int,
        width: int,
        vocabulary: int = 0,
    ):
        super().__init__()
        self.term_size = term_size
        self.hidden = nn.Linear(dim, width)
        self.deeper = nn.Linear(width, width)
        # One more than m: the first token behind a latent's own is kept by that latent, not by the next.
        self.to_terms = nn.Linear(width, (terms_per_latent + 1) * term_size, bias=False)
        # The direction of each token: where a term vector points that stands for it.
        self.tokens = nn.Parameter(F.normalize(torch.randn(vocabulary, term_size), dim=-1))
        self.sharpness = nn.Parameter(torch.tensor([3.0]))
        self._directions: Tensor | None = None  # of a head that is no longer trained
        self.to_index = (
            nn.Embedding(vocabulary, index_size) if vocabulary else nn.Linear(width, index_size, bias=False)
        )

    @property
    def index_size(self) -> int:
        """P, the width of the index vector."""
        return self.to_index.weight.shape[1 if len(self.tokens) else 0]

    def of_text(self, latents: Tensor) -> Tensor:
        """Term vectors of one text's latents [L, D], [L * m, term_size], in the order of its tokens."""
        return self.terms(latents[None], torch.tensor([len(latents)], device=latents.device))[0][0]

    def _read(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Term vectors of a latent's own tokens [..., m, term_size], and of the one behind them [..., term_size]."""
        found = self.to_terms(self._features(latents)).unflatten(-1, (-1, self.term_size))
        return found[..., :-1, :], found[..., -1, :]

    def _features(self, latents: Tensor) -> Tensor:
        first = self.hidden(latents)
        return F.silu(first + self.deeper(F.silu(first)))

    def terms(self, latents: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Term vectors of padded latents [B, L, D], [B, L * m, term_size], and how many each row has, int64 [B]."""
        valid = length_mask(lengths, latents.shape[1])
        # Padding is most of a batch of short texts, and is not computed.
        own, behind = self._read(latents[valid])
        place = valid.nonzero()[:, 1]
        m = own.shape[1]
        # Rows follow one another, so that the latent before is the row's own but for its first.
        first = torch.where((place == 0)[:, None], own[:, 0], behind.roll(1, 0))
        out = own.new_zeros(*valid.shape, m, self.term_size)
        out[valid] = torch.cat([first[:, None], own[:, 1:]], dim=1)
        return out.flatten(1, 2), lengths * m

    def named_tokens(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        """The token that each term vector [..., term_size] names, int64 [...], and how certainly, 0..1 [...]."""
        found = [_likeliest(logits) for logits in self._logits(terms)]
        named, certainty = (torch.cat(each).view(terms.shape[:-1]) for each in zip(*found, strict=True))
        return named, certainty

    def nearest_tokens(self, terms: Tensor) -> Tensor:
        """The token that each term vector [..., term_size] names, int64 [...]; near-ties may fall either way.

        In bfloat16 where the processor has a unit for it, and without what makes a probability: for a guess.
        """
        directions = self._rounded_directions()
        rows = terms.flatten(0, -2).to(directions.dtype)
        found = [nearly_largest(part @ directions) for part in torch.split(rows, _ROWS)]
        return torch.cat(found).view(terms.shape[:-1])

    def _rounded_directions(self) -> Tensor:
        """Of each token, [term_size, V]; in bfloat16 where the processor has a unit for it."""
        if self._directions is None or self._directions.device != self.tokens.device:
            rounds = GAINS_BY_BFLOAT16 and self.tokens.device.type == "cpu"
            dtype = torch.bfloat16 if rounds else self.tokens.dtype
            self._directions = F.normalize(self.tokens, dim=-1).T.to(dtype).contiguous()
        return self._directions

    def expected(self, terms: Tensor) -> Tensor:
        """Term vectors [..., term_size] turned to the mean direction of the tokens they may name, their norms kept.

        The mean is over the probabilities of the tokens: what a latent does not say for certain moves a term vector
        less than the noise of reading does. Without tokens, the term vectors as they are. In bfloat16 where the
        processor has a unit for it.
        """
        if not len(self.tokens):
            return terms
        directions, sharpness = self._rounded_directions(), float(self.sharpness.detach().exp())
        tokens = directions.T

        def of_some(rows: Tensor) -> Tensor:
            found = []
            for part in torch.split((rows * sharpness).to(directions.dtype), _ROWS):
                weights = part @ directions
                if sharpness > _MOST:
                    weights -= sharpness - _MOST
                # A direction needs no weights that add up to one.
                found.append(weights.exp_() @ tokens)
            mean = torch.cat(found).float()
            return F.normalize(mean / mean.abs().amax(-1, keepdim=True), dim=-1)

        rows = F.normalize(terms, dim=-1).flatten(0, -2)
        shares = torch.tensor_split(rows, torch.get_num_threads()) if len(rows) > _ROWS else [rows]
        found = torch.cat(at_once(of_some, shares))
        norms: Tensor = torch.linalg.vector_norm(terms, dim=-1, keepdim=True)
        return found.view_as(terms) * norms

    def _logits(self, terms: Tensor) -> Iterator[Tensor]:
        """Of the tokens that term vectors [..., term_size] stand for, [n, V] for some of them after another."""
        tokens = F.normalize(self.tokens, dim=-1).T * self.sharpness.exp()
        for part in torch.split(F.normalize(terms, dim=-1).flatten(0, -2), _ROWS):
            yield part @ tokens

    def pooled(self, latents: Tensor, lengths: Tensor) -> Tensor:
        """One vector of length 1 per row of padded latents [B, L, D]: [B, index_size]."""
        if not len(self.tokens):
            valid = length_mask(lengths, latents.shape[1])
            shares = self.to_index(self._features(latents)) * valid[..., None]
            return F.normalize(shares.sum(1), dim=-1)
        terms, counts = self.terms(latents, lengths)
        there = length_mask(counts, terms.shape[1])
        named, certainty = self.named_tokens(terms[there])
        out = terms.new_zeros(len(terms), self.index_size)
        out.index_add_(0, there.nonzero()[:, 0], self.to_index(named) * certainty[:, None])
        return F.normalize(out, dim=-1)

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
            terms, vocabulary = tensors["to_terms.weight"].shape[0], len(tensors["tokens"])
            index_size = tensors["to_index.weight"].shape[1 if vocabulary else 0]
            head = cls(dim, terms // term_size - 1, term_size, index_size, width, vocabulary)
            head.load_state_dict({k: v.float() for k, v in tensors.items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} cannot be read as an index head: {error}") from error
        return head.eval().requires_grad_(False)


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest of each row of logits [n, V], int64 [n], and its probability [n]. The logits are overwritten."""
    best, named = largest(logits)
    return named, logits.sub_(best[:, None]).exp_().sum(-1).reciprocal_()


def late_interaction(queries: Tensor, query_lengths: Tensor, passages: Tensor, lengths: Tensor) -> Tensor:
    """MaxSim of padded term vectors, weighted by the norms of the query's: [Q, T, d] and [B, S, d] to [Q, B].

    >>> late_interaction(torch.eye(2)[None], torch.tensor([2]), torch.eye(2)[:, None], torch.tensor([1, 1]))
    tensor([[0.5000, 0.5000]])
    """
    weight = queries.norm(dim=-1)
    weight = weight * length_mask(query_lengths, queries.shape[1])
    directions, candidates = F.normalize(queries, dim=-1), F.normalize(passages, dim=-1)
    outside = ~length_mask(lengths, passages.shape[1])
    rows = []
    for query, share in zip(directions, weight / weight.sum(1, keepdim=True), strict=True):
        cosine = (candidates @ query.T).masked_fill(outside[..., None], -1.0)  # [B, S, T]
        rows.append(cosine.amax(1) @ share)
    return torch.stack(rows) if rows else queries.new_zeros(0, len(passages))
