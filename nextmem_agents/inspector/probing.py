"""Which latent holds which word, measured: a word is swapped, the chunk is encoded anew, each latent's change taken.

The experiment of :mod:`nextmem_agents.evaluation.sensitivity` on a text that is not ours to choose: in place of words
of the same kind, the tokens of other words of the same text are put in, so that the number of tokens stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.evaluation.sensitivity import Sensitivity
from nextmem_agents.inspector.anatomy import pieces_of, true_tokens
from nextmem_agents.quantization import Payload

_SWAPS = 2


def sensitivity_view(codec: LatentCodec, payload: Payload) -> dict[str, Any]:
    """The measured change of each latent with each word of a chunk.

    Returns:
        ``words``: each with its token range and ``change``, one number per latent. ``share_inside``: how much of all
        change falls on the latents in whose stretch the word lies; ``share_by_chance``: the same if all changed alike.
        Without words for a chunk that is kept literally, or of too few tokens to swap any.
    """
    if payload.latents is None:
        return {"words": []}
    ids = true_tokens(codec, payload)
    pieces = pieces_of(codec.tokenizer, ids)
    words = word_ranges(pieces)
    variants, owners = [], []
    for i, (begin, end) in enumerate(words):
        for other in _substitutes(ids, begin, end):
            variants.append([*ids[:begin], *other, *ids[end:]])
            owners.append(i)
    rows = torch.tensor(owners, dtype=torch.int64)
    swapped = sorted(set(owners))
    if not swapped:
        return {"words": []}
    encoded = codec.encode_ids([ids, *variants]).values.float().cpu()
    before = encoded[0]
    change = (encoded[1:] - before).norm(dim=-1) / before.norm(dim=-1)
    mean = torch.stack([change[rows == i].mean(0) for i in swapped])
    per_latent = codec.config.tokens_per_latent or len(ids) / len(before)
    spans = tuple((words[i][0] / per_latent, words[i][1] / per_latent) for i in swapped)
    measured = Sensitivity(mean, spans, len(variants))
    return {
        "words": [
            {
                "text": "".join(pieces[words[i][0] : words[i][1]]).strip(),
                "begin": words[i][0],
                "end": words[i][1],
                "change": [round(value, 4) for value in row.tolist()],
            }
            for i, row in zip(swapped, mean, strict=True)
        ],
        "n_swaps": measured.n_swaps,
        "share_inside": measured.share_inside(),
        "share_by_chance": measured.share_by_chance(),
    }


def word_ranges(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """The token ranges [begin, end) of words: each begins at a token that begins with white space.

    Examples:
        >>> word_ranges(["She", " mo", "ved", " on"])
        [(0, 1), (1, 3), (3, 4)]
    """
    begins = [i for i, piece in enumerate(pieces) if i == 0 or piece[:1].isspace()]
    return [*pairwise([*begins, len(pieces)])]


def _substitutes(ids: Sequence[int], begin: int, end: int) -> list[list[int]]:
    """Stretches of the text as long as a word, from as far off as there are, that differ from it."""
    length, n = end - begin, len(ids)
    found: list[list[int]] = []
    for step in range(1, n):
        # n // 2 away first, then all other places in turn.
        place = (begin + n // 2 + step - 1) % n
        other = [ids[(place + k) % n] for k in range(length)]
        if other != list(ids[begin:end]) and other not in found:
            found.append(other)
        if len(found) == _SWAPS:
            break
    return found
