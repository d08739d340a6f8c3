"""Scores for reconstruction, question answering and retrieval, each as its source defines it.

Sequence scores take tokens, so that the caller decides what a token is: ``text.split()``, a tokenizer's ids.
All scores lie in 0..1, and higher is better.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING

import Stemmer

from nextmem_agents.errors import InvalidArgument

if TYPE_CHECKING:
    from nextmem_agents.evaluation.locomo import Question

__all__ = [
    "evidence_recall",
    "exact_match",
    "hit_at_k",
    "locomo_answer_f1",
    "ndcg",
    "reciprocal_rank",
    "rouge_l",
    "squad_normalise",
    "token_f1",
]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REFUSALS = ("no information available", "not mentioned")


def token_f1(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
    """Harmonic mean of precision and recall over tokens, counted with their multiplicity.

    Source: the evaluation script of SQuAD 2.0 (Rajpurkar et al., arXiv 1806.03822), where two empty
    sequences agree (1.0) and one empty sequence shares nothing (0.0).

    >>> token_f1("the cat sat".split(), "the cat lay down".split())
    0.5714285714285714
    >>> token_f1([7, 7, 9], [7, 9, 9])
    0.6666666666666666
    """
    _refuse_text(prediction, reference)
    if not prediction or not reference:
        return float(len(prediction) == len(reference))
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference))


def rouge_l(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
    """ROUGE-L: the F1 of the longest common subsequence, which need not be contiguous.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (ACL 2004 workshop, section 3.1),
    with β = 1 as in the ``rouge-score`` package. Two empty sequences agree, as in `token_f1`.

    >>> rouge_l("the cat sat on the mat".split(), "the cat on a mat".split())
    0.7272727272727273
    """
    _refuse_text(prediction, reference)
    if not prediction or not reference:
        return float(len(prediction) == len(reference))
    return 2 * _common_subsequence(prediction, reference) / (len(prediction) + len(reference))


def squad_normalise(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, spaces squeezed.

    Source: ``normalize_answer`` of the SQuAD evaluation script (arXiv 1606.05250).

    >>> squad_normalise("The  plover's nest, a small one.")
    'plovers nest small one'
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> bool:
    """Whether two answers are the same after `squad_normalise`; not for reconstruction, which is byte-exact.

    Source: ``exact_match_score`` of the SQuAD evaluation script (arXiv 1606.05250).

    >>> exact_match("The harbour.", "harbour"), exact_match("the harbour", "a barn")
    (True, False)
    """
    return squad_normalise(prediction) == squad_normalise(reference)


def locomo_answer_f1(prediction: str, question: Question) -> float:
    """LoCoMo's official score of an answer, by the question's category.

    Source: ``task_eval/evaluation.py`` of https://github.com/snap-research/locomo. Tokens are Porter stems
    of the normalised text (without commas, punctuation and ``a an the and``).

    - 1 (multi-hop): both sides are lists split at commas; for each gold part the best F1 over the predicted
      parts, then their mean.
    - 2, 3, 4: F1 of the whole; in 3 (open-domain) the gold answer ends at its first ``;``.
    - 5 (adversarial): 1.0 if the prediction says "no information available" or "not mentioned", else 0.0.
      Always saying so scores 1.0: report this category apart.

    The official script stems with NLTK's variant of Porter, this one with the original algorithm. They differ
    where one of them conflates a pair of words (*news* and *new*) and the other does not: with the evidence
    turns of seven LoCoMo conversations as predictions, in 3 of 1,644 scores, by 0.0001 in the mean.

    >>> from nextmem_agents.evaluation.locomo import Question
    >>> locomo_answer_f1("painted boats and a heron", Question("?", "paintings, heron", (), category=1))
    0.5...
    >>> locomo_answer_f1("On 8 May", Question("?", "8 May 2023", (), category=2))
    0.6666666666666666
    >>> locomo_answer_f1("That is not mentioned.", Question("?", None, (), category=5))
    1.0
    """
    if question.category == 5:
        return float(any(refusal in prediction.lower() for refusal in _REFUSALS))
    if question.category not in (1, 2, 3, 4) or question.answer is None:
        raise InvalidArgument(
            f"question {question.text!r} (category {question.category}) cannot be scored: "
            "it must be of category 1 to 4 with an answer, or of category 5"
        )
    if question.category == 1:
        predicted = [_stems(part) for part in prediction.split(",")]
        gold = [_stems(part) for part in question.answer.split(",")]
        return sum(max(_stem_f1(part, expected) for part in predicted) for expected in gold) / len(gold)
    answer = question.answer.split(";")[0] if question.category == 3 else question.answer
    return _stem_f1(_stems(prediction), _stems(answer))


def evidence_recall(retrieved_ids: Sequence[str], evidence: Collection[str], k: int | None = None) -> float:
    """The share of the evidence turns that are among the (first ``k``) retrieved ones.

    Source: ``recall_acc`` of LoCoMo's ``task_eval/evaluation.py``, over distinct turns. A question without
    evidence has no recall and is refused with `InvalidArgument`: leave it out of the mean, where the
    official script counts it as 1.0.

    >>> evidence_recall(["D1:3", "D4:2", "D2:8"], ["D2:8", "D1:3", "D9:1"])
    0.6666666666666666
    >>> evidence_recall(["D1:3", "D4:2", "D2:8"], ["D2:8", "D1:3"], k=2)
    0.5
    """
    wanted = _wanted(evidence)
    return len(wanted.intersection(_first(retrieved_ids, k))) / len(wanted)


def hit_at_k(retrieved_ids: Sequence[str], evidence: Collection[str], k: int) -> bool:
    """Whether one of the first ``k`` retrieved items is evidence (LongMemEval's ``recall_any@k``).

    Source: Hit@k of the NextMem paper's task 3 (arXiv 2603.15634); ``evaluate_retrieval`` of
    https://github.com/xiaowu0162/LongMemEval.

    >>> hit_at_k(["D4:2", "D1:3"], {"D1:3"}, k=1), hit_at_k(["D4:2", "D1:3"], {"D1:3"}, k=2)
    (False, True)
    """
    return not _wanted(evidence).isdisjoint(_first(retrieved_ids, k))


def reciprocal_rank(retrieved_ids: Sequence[str], evidence: Collection[str]) -> float:
    """One over the position of the first retrieved item that is evidence, 0.0 without one; its mean is MRR.

    Source: Voorhees, "The TREC-8 Question Answering Track Report" (1999).

    >>> reciprocal_rank(["D4:2", "D1:3"], {"D1:3"})
    0.5
    """
    wanted = _wanted(evidence)
    return next((1 / rank for rank, found in enumerate(retrieved_ids, start=1) if found in wanted), 0.0)


def ndcg(retrieved_ids: Sequence[str], evidence: Collection[str], k: int) -> float:
    """NDCG of the first ``k`` with relevance 0 or 1, as LongMemEval computes it.

    Source: ``dcg`` and ``ndcg`` of https://github.com/xiaowu0162/LongMemEval, ``src/retrieval/eval_utils.py``: the
    first two places count alike (rel_1 + sum of rel_i / log2(i) from the second on).

    >>> ndcg(["a", "b", "c"], {"b"}, 3), round(ndcg(["a", "b", "c"], {"c"}, 3), 4)
    (1.0, 0.6309)
    """
    wanted = _wanted(evidence)
    gains = [1.0 / math.log2(max(2, rank)) for rank in range(1, k + 1)]
    first = _first(retrieved_ids, k)
    found = sum(gain for gain, id_ in zip(gains, first, strict=False) if id_ in wanted)
    return found / sum(gains[: len(wanted)])


def _common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    # Hyyrö's bit-parallel recurrence (2004): one row of the usual table is one integer, whose bit i is 0
    # where the row's value rises at a[i]; a hundred times faster than filling the table in Python.
    positions: dict[Hashable, int] = {}
    for i, token in enumerate(a):
        positions[token] = positions.get(token, 0) | 1 << i
    every_bit = (1 << len(a)) - 1
    row = every_bit
    for token in b:
        matches = row & positions.get(token, 0)
        row = ((row + matches) | (row - matches)) & every_bit
    return len(a) - bin(row).count("1")


def _stems(text: str) -> list[str]:
    text = text.lower().translate(_NO_PUNCTUATION)
    words = re.sub(r"\b(a|an|the|and)\b", " ", text).split()
    # A stemmer per call, because PyStemmer's objects must not be shared between threads. Words of one or
    # two letters stay whole, as in NLTK: the original algorithm would turn "is" into "i" and "s" into "".
    porter = Stemmer.Stemmer("porter")
    return [porter.stemWord(word) if len(word) > 2 else word for word in words]


def _stem_f1(prediction: list[str], reference: list[str]) -> float:
    # Unlike SQuAD, LoCoMo's script gives 0 to two answers that are both empty
    return token_f1(prediction, reference) if prediction else 0.0


def _wanted(evidence: Collection[str]) -> set[str]:
    _refuse_text(evidence)
    if not evidence:
        raise InvalidArgument("a question without evidence has no retrieval score; leave it out of the mean")
    return set(evidence)


def _first(retrieved_ids: Sequence[str], k: int | None) -> Sequence[str]:
    _refuse_text(retrieved_ids)
    if k is not None and k < 1:
        raise InvalidArgument(f"k must be 1 or more, not {k}")
    return retrieved_ids[:k]


def _refuse_text(*sequences: object) -> None:
    # A string is a sequence of characters, and would be scored as one without a word
    if any(isinstance(sequence, str) for sequence in sequences):
        raise InvalidArgument("give a list, not a string: for words, text.split()")
