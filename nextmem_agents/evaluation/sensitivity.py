"""Which latent holds which sentence: a word is swapped, and each latent's change is measured.

The picture of the NextMem paper (arXiv 2603.15634) that shows its latents to be ordered: a swap in the i-th
sentence moves the latents that stand for that stretch of text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import InvalidArgument

_NAMES = (
    "Anna Peter Maria Thomas Laura Martin Julia David Sarah Daniel Emma Paul Clara Simon Alice Robert".split()
)
_PLACES = (
    "London Paris Berlin Rome Vienna Madrid Dublin Oslo Boston Chicago Athens Lisbon Moscow Tokyo".split()
)
_MONTHS = "January February March April June July August October November December".split()
_THINGS = "bread water music paper silver cotton coffee sugar butter fish glass wine wood stone".split()

EXAMPLE: tuple[tuple[str, Sequence[str]], ...] = (
    ("My neighbour {} sold the old boat last week.", _NAMES),
    ("She wants to move to {} as soon as she can.", _PLACES),
    ("The house there will be ready in {}.", _MONTHS),
    ("Her brother {} is going to help her pack.", _NAMES),
    ("He works for a firm that trades in {}.", _THINGS),
    ("They met in {} at the end of a long war.", _PLACES),
    ("On the wall hangs a picture of their uncle {}.", _NAMES),
    ("I will bring them some {} for the journey.", _THINGS),
)
"""Eight sentences of much the same length, each with a place for a word and the words that go there."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How much each latent changes with each sentence.

    Attributes:
        change: float32 [S, L]: ‖latent j after the swap - before‖ / ‖before‖, mean over the swaps in sentence i.
        spans: per sentence, where its tokens lie, in latents from the text's start (``(0.0, 1.5)``: latent 0 and
            half of latent 1).
        n_swaps: swaps that were made, over all sentences.
    """

    change: Tensor
    spans: tuple[tuple[float, float], ...]
    n_swaps: int

    def share_inside(self) -> float:
        """The share of all change that falls on the latents which a changed sentence's tokens lie in."""
        return self._share(self.change)

    def share_by_chance(self) -> float:
        """What that share would be if every latent changed alike."""
        return self._share(torch.ones_like(self.change))

    def _share(self, change: Tensor) -> float:
        inside = 0.0
        for row, (begin, end) in zip(change, self.spans, strict=True):
            inside += float(row[math.floor(begin) : math.ceil(end)].sum() / row.sum())
        return inside / len(self.spans)


def swap_sensitivity(
    codec: LatentCodec, sentences: Sequence[tuple[str, Sequence[str]]] = EXAMPLE
) -> Sensitivity:
    """Swap one word in one sentence at a time.

    Args:
        codec: the codec.
        sentences: each with ``{}`` in the place of a word, and the words that may stand there. Of these, the
            largest group that takes the same number of tokens is used, since another number would move all later
            text to other latents: its first is in the text that is compared with, the others are swapped in.

    Returns:
        The change of each latent.

    Raises:
        InvalidArgument: a sentence without ``{}``, one for which no word keeps the number of tokens, or no
            sentence.
        TextTooLong: the sentences do not go into a chunk.
    """
    for sentence, words in sentences:
        if sentence.count("{}") != 1 or not words:
            raise InvalidArgument(f"a sentence needs {{}} once, and words that go there: {sentence!r}")
    if not sentences:
        raise InvalidArgument("there is no sentence to swap a word in")
    variants = [_of_equal_length(codec, sentence, words) for sentence, words in sentences]
    base = [texts[0] for texts in variants]
    text, n_tokens = " ".join(base), codec.count_tokens(" ".join(base))
    swapped: list[str] = []
    owners: list[int] = []
    for i, texts in enumerate(variants):
        swapped += [" ".join([*base[:i], other, *base[i + 1 :]]) for other in texts[1:]]
        owners += [i] * (len(texts) - 1)
    values = codec.encode([text, *swapped]).values
    before = values[0]
    change = ((values[1:] - before).norm(dim=-1) / before.norm(dim=-1)).cpu()
    rows = torch.tensor(owners)
    mean = torch.stack([change[rows == i].mean(0) for i in range(len(sentences))])
    ends = [codec.count_tokens(" ".join(base[: i + 1])) for i in range(len(base))]
    per_latent = codec.config.tokens_per_latent or n_tokens / values.shape[1]
    spans = tuple((a / per_latent, b / per_latent) for a, b in zip([0, *ends[:-1]], ends, strict=True))
    return Sensitivity(mean, spans, len(swapped))


def _of_equal_length(codec: LatentCodec, sentence: str, words: Sequence[str]) -> list[str]:
    """The sentence with each word of the largest group that takes the same number of tokens."""
    groups: dict[int, list[str]] = {}
    for text in dict.fromkeys(sentence.format(word) for word in words):
        groups.setdefault(codec.count_tokens(" " + text), []).append(text)
    found = max(groups.values(), key=len)
    if len(found) < 2:
        raise InvalidArgument(f"no two words in the place of {{}} take as many tokens: {sentence!r}")
    return found
