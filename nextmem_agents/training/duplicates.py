"""Texts that were seen before: the same words, nearly the same, or words shared with an evaluation set.

Near duplicates are found by MinHash with banding (Broder, "On the resemblance and containment of documents", 1997;
Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3) over shingles of five words, and then
compared exactly, so that nothing is dropped by an estimate. datasketch does the same, and brings SciPy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from nextmem_agents.errors import InvalidArgument

Array = np.ndarray[Any, Any]

GRAM: Final = 13
"""Words in a row that make an overlap with an evaluation set (as for GPT-3, Brown et al. 2020, appendix C)."""

SHINGLE: Final = 5
_MIN_WHOLE: Final = 4  # words; "thank you very much" is in every set
_BANDS, _ROWS = 16, 4  # of 100 pairs of similarity .8, 99.98 share a band; of .5, 64; of .3, 12
# Scripts that put no space between words count by the character.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Lower-cased words without punctuation, in order; a text that has none is one word.

    >>> words_of("Ann's boat, sold!")
    ['ann', 's', 'boat', 'sold']
    >>> words_of("我姐姐 ok"), words_of(":-)")
    (['我', '姐', '姐', 'ok'], [':-)'])
    """
    return _WORD.findall(text.lower()) or [text]


class Overlap:
    """What must not be trained on: the 13-grams of evaluation texts, and shorter texts as wholes.

    >>> held_out = Overlap(["The old harbour froze in 1911."])
    >>> held_out.found_in(words_of("the old harbour froze in 1911")), held_out.found_in(words_of("Yes."))
    (True, False)
    """

    def __init__(self, texts: Iterable[str]):
        self._grams: set[int] = set()
        for text in texts:
            words = words_of(text)
            if len(words) >= _MIN_WHOLE:
                self._grams.update(_gram_hashes(words))

    def __len__(self) -> int:
        return len(self._grams)

    def found_in(self, words: list[str]) -> bool:
        """Whether a text shares 13 words in a row with an evaluation text, or is one, if shorter."""
        return len(words) >= _MIN_WHOLE and not self._grams.isdisjoint(_gram_hashes(words))


def _gram_hashes(words: list[str]) -> list[int]:
    # Python's own hash is quick, and as these are compared within one process only, its seed does not matter.
    return [hash(tuple(words[i : i + GRAM])) for i in range(max(1, len(words) - GRAM + 1))]


class Duplicates:
    """Texts seen so far.

    Args:
        similarity: shared shingles over all shingles of two texts (Jaccard) from which they are near duplicates.
    """

    def __init__(self, similarity: float = 0.8):
        if not 0 < similarity <= 1:
            raise InvalidArgument(f"similarity lies in 0 … 1, not {similarity}")
        self._similarity = similarity
        self._exact: set[bytes] = set()
        self._shingles: list[Array] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}
        rng = np.random.default_rng(20_261_121)
        self._odd = rng.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64) * 2 + 1
        self._offset = rng.integers(0, 2**63, (_BANDS * _ROWS, 1), dtype=np.uint64)

    def is_exact(self, words: list[str]) -> bool:
        """Whether the same words were seen; if not, they are now."""
        digest = blake2b(" ".join(words).encode(), digest_size=16).digest()
        if digest in self._exact:
            return True
        self._exact.add(digest)
        return False

    def is_near(self, words: list[str]) -> bool:
        """Whether a text of nearly these words was seen; if not, this one is now."""
        shingles = _shingle_hashes(words)
        # Multiply-add-shift over 64 bits; overflow is meant.
        signature = ((shingles * self._odd + self._offset) >> np.uint64(16)).min(1).reshape(_BANDS, _ROWS)
        keys = [(band, signature[band].tobytes()) for band in range(_BANDS)]
        candidates = {i for key in keys for i in self._bands.get(key, ())}
        if any(_jaccard(shingles, self._shingles[i]) >= self._similarity for i in candidates):
            return True
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._shingles))
        self._shingles.append(shingles)
        return False


def _shingle_hashes(words: list[str]) -> Array:
    joined = (" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)))
    digests = b"".join(blake2b(shingle.encode(), digest_size=8).digest() for shingle in joined)
    return np.unique(np.frombuffer(digests, dtype="<u8").astype(np.uint64))


def _jaccard(a: Array, b: Array) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
