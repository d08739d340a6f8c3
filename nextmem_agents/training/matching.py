"""Training the index head, on a codec's finished latents: to name their tokens, and to match questions and passages.

    nextmem train index-head --codec mini --data TEXTS --output runs/head --export FOLDER

First the head learns to read: each of a latent's term vectors has to point at its own token, among all of the
vocabulary, the rarer the more often. Then InfoNCE between questions and the passages they ask about is added, over late
interaction and over pooled vectors, which teaches what counts and what is near what. (InfoNCE alone stopped at a third
of the accuracy: which of eight tokens made a difference is a weak signal to learn reading from.)

The latents stay as they are, and are encoded once. Part of the questions are people's, part made of the passages' own
words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextmem_agents.codec.index_head import IndexHead, late_interaction
from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import DataError, InvalidArgument
from nextmem_agents.training import loop, passages
from nextmem_agents.training.loop import CORPUS, LoopConfig
from nextmem_agents.training.optimizer import muon_and_adamw
from nextmem_agents.training.packed import Packed
from nextmem_agents.training.pairs import MadeUpQuestions, Pairs, find_questions, write_pairs
from nextmem_agents.training.run_state import writing
from nextmem_agents.training.token_loss import token_loss

LATENTS = "latents.npz"
_UNREAD = 0.05  # share of tokens left out of an index vector in training, as some are read wrong


@dataclass(frozen=True)
class IndexHeadConfig(LoopConfig):
    """Train an index head.

    Attributes:
        batch_size: passages of a step whose tokens are to be named.
        learning_rate: Muon's, on the matrices.
        adamw_rate: AdamW's, on the tokens' directions, biases and scales.
        terms_per_latent: m; as many as a latent has tokens, where tokens are to be named.
        term_size: width of a term vector.
        index_size: width of the pooled vector.
        width: of the hidden layers.
        named_tokens: tokens to be named in a step; 0: learn from pairs alone.
        pairs_after: share of the run after which pairs are matched by late interaction, too.
        matched: pairs so matched in a step; the passages of the others are a question's negatives.
        pooled: pairs matched by their index vectors in a step.
        questions: file of questions → weight.
        pairs: how many pairs are encoded.
        made_up_share: share of them whose question is made up.
        shortest, longest: tokens of a passage.
        noise: σ of the noise on passages' latents, in units of their RMS: what is stored is quantised.
    """

    steps: int = 900
    batch_size: int = 384
    learning_rate: float = 0.02
    adamw_rate: float = 5e-3
    warmup_steps: int = 30
    decay_share: float = 0.7
    evaluate_texts: int = 0
    terms_per_latent: int = 8
    term_size: int = 64
    index_size: int = 256
    width: int = 1024
    named_tokens: int = 4096
    pairs_after: float = 0.5
    matched: int = 64
    pooled: int = 1024
    questions: dict[str, float] = field(
        default_factory=lambda: {"qa_squad_train": 0.88, "qa_nq_oracle": 0.08, "qa_qed": 0.04}
    )
    pairs: int = 60_000
    made_up_share: float = 0.4
    shortest: int = 11
    longest: int = 128
    noise: float = 0.1


@dataclass(frozen=True)
class _Side:
    """The questions, or the texts, of all pairs.

    Attributes:
        latents: float16 [ΣL, D].
        tokens: each latent's, int64 [ΣL, tokens per latent], the end token where a text has ended; of no width if
            latents have no fixed number of tokens.
    """

    latents: Packed
    tokens: Packed

    def rows(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padded latents float32 [B, L, D], their lengths, and their tokens (-1 in the padding)."""
        values, lengths = self.latents.rows(chosen)
        return values.float(), lengths, self.tokens.rows(chosen, padding=-1)[0]


class Matching(nn.Module):
    """The index head with its three losses: over tokens, over late interaction, and over index vectors."""

    def __init__(self, head: IndexHead, questions: _Side, texts: _Side, config: IndexHeadConfig, end: int):
        super().__init__()
        self.head = head
        self.log_scale = nn.Parameter(torch.tensor([2.5, 2.5]))  # of the similarities, before the softmax
        self.questions, self.texts, self.config, self.end = questions, texts, config, end
        self.weights = _rarity(texts.tokens.values, end, len(head.tokens))
        self._token_loss: Callable[..., tuple[Tensor, Tensor]] = token_loss

    def compile_loss(self) -> None:
        """Compile what most of a step is spent on."""
        self._token_loss = torch.compile(token_loss)

    def forward(self, rows: loop.Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses for the pairs whose numbers ``rows`` holds, and how many come out first."""
        scale = self.log_scale.exp().clamp(max=100)
        drawn = torch.from_numpy(rows[0])
        texts, lengths, tokens = self.texts.rows(drawn)
        texts = texts + torch.randn_like(texts) * texts.square().mean().sqrt() * self.config.noise
        questions, question_lengths, asked = self.questions.rows(drawn)
        chosen = slice(0, self.config.matched)
        matching = step >= self.config.pairs_after * self.config.steps
        loss = named = late_first = torch.zeros(())
        if self.config.named_tokens or matching:
            terms = self.head.terms(texts, lengths)
            question_terms = self.head.terms(questions, question_lengths)
        if self.config.named_tokens:
            flat = torch.cat([terms[0].flatten(0, 1), question_terms[0].flatten(0, 1)])
            naming, named = self._name(flat, torch.cat([tokens.flatten(), asked.flatten()]))
            loss = loss + naming
        if matching:
            late = late_interaction(*(x[chosen] for x in question_terms), *(x[chosen] for x in terms))
            loss = loss + _told_apart(late * scale[0])
            late_first = _first(late)
        pairs = torch.from_numpy(rows[1])
        pooled = self._pooled(self.questions, pairs) @ self._pooled(self.texts, pairs).T
        loss = loss + _told_apart(pooled * scale[1])
        return loss, {
            "named": named,
            "late_first": late_first,
            "pooled_first": _first(pooled),
            "tokens": lengths.sum(),
        }

    def _name(self, terms: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of some term vectors [N, term_size] over all tokens, and the share of them that name their own."""
        there = (tokens >= 0).nonzero()[:, 0]
        n = min(self.config.named_tokens, len(there))
        drawn = there[torch.multinomial(self.weights[tokens[there]], n)]
        directions = F.normalize(self.head.tokens, dim=-1) * self.head.sharpness.exp()
        return self._token_loss(F.normalize(terms[drawn], dim=-1), directions, tokens[drawn])

    def _pooled(self, side: _Side, chosen: Tensor) -> Tensor:
        """Index vectors of texts whose tokens were all read right, or, without tokens, of their latents."""
        if not self.config.named_tokens:
            return self.head.pooled(*side.rows(chosen)[:2])
        tokens, _ = side.tokens.rows(chosen, padding=-1)
        kept = (tokens >= 0) & (tokens != self.end) & (torch.rand(tokens.shape) >= _UNREAD)
        rows = torch.arange(len(tokens))[:, None, None].expand_as(tokens)[kept]
        summed = torch.zeros(len(tokens), self.head.index_size)
        return F.normalize(summed.index_add(0, rows, self.head.to_index(tokens[kept])), dim=-1)


def _told_apart(similarity: Tensor) -> Tensor:
    """InfoNCE in both directions over a square of similarities whose diagonal holds the pairs."""
    target = torch.arange(len(similarity))
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def _first(similarity: Tensor) -> Tensor:
    return (similarity.argmax(-1) == torch.arange(len(similarity))).float().mean()


def _rarity(tokens: Tensor, end: int, vocabulary: int) -> Tensor:
    """How often each token is drawn: the square of its inverse document frequency, float32 [V]; the end at times."""
    if not vocabulary:
        return torch.zeros(0)
    frequency = _inverse_frequency(tokens, vocabulary)
    weights = (frequency / frequency.max()).clamp(min=0.05).square()
    weights[end] = 0.1
    return weights


def _inverse_frequency(tokens: Tensor, vocabulary: int) -> Tensor:
    counts = torch.bincount(tokens[tokens >= 0], minlength=vocabulary).float()
    return torch.log((counts.sum() + 1) / (counts + 1))


def train_index_head(
    codec: LatentCodec, config: IndexHeadConfig, data: Path, run: Path, *, compile_model: bool = True
) -> IndexHead:
    """Train until ``config.steps``, going on from what ``run`` holds.

    Raises:
        InvalidArgument: tokens are to be named, and the codec's latents have not one token for each term vector.
        DataError: a file is missing, malformed or empty.
        CheckpointError: ``run`` belongs to other settings, or cannot be written.
    """
    ratio = codec.config.tokens_per_latent
    if config.named_tokens and ratio != config.terms_per_latent:
        raise InvalidArgument(
            f"codec {codec.config.name!r} has {ratio or 'no fixed number of'} tokens in a latent, and "
            f"terms_per_latent is {config.terms_per_latent}: each term vector has to name one token. Set "
            f"{f'terms_per_latent to {ratio}, or ' if ratio else ''}named_tokens to 0 to learn from pairs alone"
        )
    process = loop.accelerator(config, on_cpu=True)
    if process.is_main_process:
        loop.claim(run, config, {"codec": codec.fingerprint})
        encode_pairs(codec, config, data, run)
    process.wait_for_everyone()
    with np.load(run / LATENTS) as arrays:
        questions, texts = (
            _Side(Packed.read(arrays, kind), Packed.read(arrays, f"{kind}_tokens"))
            for kind in ("question", "text")
        )
    torch.manual_seed(config.seed)
    head = IndexHead(
        codec.dim,
        config.terms_per_latent,
        config.term_size,
        config.index_size,
        config.width,
        codec.tokenizer.tokenizer.get_vocab_size() if config.named_tokens else 0,
    )
    end = codec.config.end_of_text
    if config.named_tokens:
        with torch.no_grad():  # rare tokens weigh more from the beginning
            rarity = (_inverse_frequency(texts.tokens.values, len(head.tokens)) - 3).clamp(min=0.1)
            head.to_index.weight *= rarity[:, None] / config.index_size**0.5
            head.to_index.weight[end] = 0.0
    module = Matching(head, questions, texts, config, end)
    if compile_model:
        module.compile_loss()
    optimizers = muon_and_adamw(module, config.learning_rate, config.adamw_rate)
    count = len(texts.latents)

    def draw(step: int, rng: np.random.Generator) -> loop.Rows:  # noqa: ARG001
        return [rng.choice(count, min(count, n), replace=False) for n in (config.batch_size, config.pooled)]

    loop.train(process, module, optimizers, config, run, draw, "index head")
    return head.eval().requires_grad_(False)


def encode_pairs(codec: LatentCodec, config: IndexHeadConfig, data: Path, run: Path) -> None:
    """Draw pairs and encode both sides; what ``run`` holds already is used as it is.

    Raises:
        DataError: a file is missing, malformed or empty.
        CheckpointError: the folder cannot be written.
    """
    if (run / LATENTS).is_file():
        return
    drawn = _draw_pairs(codec, config, data, run)
    arrays: dict[str, Any] = {}
    for kind, rows in zip(("question", "text"), zip(*drawn, strict=True), strict=True):
        latents = Packed.encoded(codec, rows, f"encoding {kind}s")
        tokens = _tokens_of(rows, latents, codec.config.tokens_per_latent or 0, codec.config.end_of_text)
        arrays |= latents.arrays(kind) | tokens.arrays(f"{kind}_tokens")
    with writing(run / LATENTS):
        np.savez(run / "latents.partial.npz", **arrays)
        (run / "latents.partial.npz").replace(run / LATENTS)


def _tokens_of(rows: Sequence[Sequence[int]], latents: Packed, width: int, end: int) -> Packed:
    """The tokens that each latent stands for, ``width`` of them."""
    found = torch.full((len(latents.values), width), end)
    for ids, begin, stop in zip(
        rows, latents.offsets[:-1].tolist(), latents.offsets[1:].tolist(), strict=True
    ):
        stretch = found[begin:stop].view(-1)
        stretch[: len(ids)] = torch.tensor(ids)[: len(stretch)]
    return Packed(found, latents.offsets)


def _draw_pairs(
    codec: LatentCodec, config: IndexHeadConfig, data: Path, run: Path
) -> list[tuple[list[int], list[int]]]:
    tokenizer = codec.tokenizer.tokenizer
    passages.prepare(
        passages.find_texts(data, config.sources), run / CORPUS, codec.tokenizer, config.held_out
    )
    drawn = passages.Passages(run / CORPUS)
    made_up = MadeUpQuestions(tokenizer, np.bincount(drawn.tokens, minlength=tokenizer.get_vocab_size()))
    asked = []
    for name in config.questions:
        target = run / CORPUS / f"{name}.pairs.npz"
        if not target.exists():
            write_pairs(tokenizer, find_questions(data, name), target)
        asked.append(Pairs(target))
    rng = np.random.default_rng(config.seed)
    shares = np.array(list(config.questions.values()))
    found: list[tuple[list[int], list[int]]] = []
    misses = 0
    while len(found) < config.pairs:
        longest = round(np.exp(rng.uniform(np.log(config.shortest), np.log(config.longest))))
        if asked and rng.random() >= config.made_up_share:
            pair = asked[int(rng.choice(len(asked), p=shares / shares.sum()))].draw(rng, longest)
            question, text = pair.question, pair.text
        else:
            text = drawn.passage(rng, min(config.shortest, longest), longest)
            made = made_up.make(rng, text)
            if made is None:
                misses += 1
                if misses > 10 * config.pairs + 1000:
                    raise DataError(f"{data}: its texts hold too few words to make questions of")
                continue
            question = made
        found.append((question.tolist(), text.tolist()))
    return found
