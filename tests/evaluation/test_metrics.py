from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.locomo import Question, load_locomo
from nextmem_agents.evaluation.metrics import (
    evidence_recall,
    exact_match,
    hit_at_k,
    locomo_answer_f1,
    reciprocal_rank,
    rouge_l,
    squad_normalise,
    token_f1,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "eval" / "locomo10.json.xz"
TOKENS = st.lists(st.integers(0, 5), max_size=30)


def answer_f1(prediction: str, answer: str | None, category: int) -> float:
    return locomo_answer_f1(prediction, Question("?", answer, (), category))


def longest_common_subsequence(a: Sequence[int], b: Sequence[int]) -> int:
    """The table of the textbook, row by row."""
    row = [0] * (len(b) + 1)
    for x in a:
        previous = 0
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], previous + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


class TestTokenF1:
    @pytest.mark.parametrize(
        ("prediction", "reference", "expected"),
        [
            (["a", "b"], ["b", "a"], 1.0),
            (["a", "a", "a"], ["a"], 0.5),
            (["a"], ["b"], 0.0),
            ([], [], 1.0),
            ([], ["a"], 0.0),
            (["a"], [], 0.0),
        ],
    )
    def test_known_values(self, prediction: list[str], reference: list[str], expected: float) -> None:
        assert token_f1(prediction, reference) == expected

    @given(TOKENS, TOKENS)
    def test_it_is_symmetric_and_within_0_and_1(self, a: list[int], b: list[int]) -> None:
        assert 0.0 <= token_f1(a, b) == token_f1(b, a) <= 1.0

    @given(TOKENS.flatmap(lambda tokens: st.tuples(st.just(tokens), st.permutations(tokens))))
    def test_order_does_not_count(self, pair: tuple[list[int], list[int]]) -> None:
        assert token_f1(*pair) == 1.0


class TestRougeL:
    @given(TOKENS, TOKENS)
    def test_it_is_f1_of_the_textbook_subsequence(self, a: list[int], b: list[int]) -> None:
        if a and b:
            length = longest_common_subsequence(a, b)
            assert rouge_l(a, b) == 2 * length / (len(a) + len(b))

    @given(TOKENS, TOKENS)
    def test_it_never_exceeds_token_f1(self, a: list[int], b: list[int]) -> None:
        assert rouge_l(a, b) <= token_f1(a, b)

    def test_lins_examples(self) -> None:
        # Lin 2004, section 3.1: S1 against S2 and S3
        reference = ["police", "killed", "the", "gunman"]
        assert rouge_l(["police", "kill", "the", "gunman"], reference) == 0.75
        assert rouge_l(["the", "gunman", "kill", "police"], reference) == 0.5

    def test_empty_sequences(self) -> None:
        assert (rouge_l([], []), rouge_l([], ["a"]), rouge_l(["a"], [])) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("score", [token_f1, rouge_l])
def test_a_string_is_not_taken_for_tokens(score: object) -> None:
    with pytest.raises(InvalidArgument, match="not a string"):
        score("the cat", "the hat")  # type: ignore[operator]


class TestExactMatch:
    def test_case_articles_punctuation_and_spaces_do_not_count(self) -> None:
        assert squad_normalise(" An  Answer: the £1,450! ") == "answer £1450"
        assert exact_match("The old  Harbour.", "old harbour")

    def test_words_do(self) -> None:
        assert not exact_match("old harbour and barn", "old harbour barn")
        assert squad_normalise("theatre anthem") == "theatre anthem"


class TestLocomoAnswerF1:
    @pytest.mark.parametrize("category", [2, 3, 4])
    def test_stems_are_compared_without_articles_and_punctuation(self, category: int) -> None:
        assert answer_f1("She painted the boats, and sailed.", "she paints boat sailing", category) == 1.0

    def test_open_domain_answers_end_at_the_semicolon(self) -> None:
        gold = "Likely no; she dislikes the cold"
        assert answer_f1("likely no", gold, 3) == 1.0
        assert answer_f1("likely no", gold, 4) == pytest.approx(2 * 2 / (2 + 5))

    def test_multi_hop_answers_are_lists(self) -> None:
        assert answer_f1("larch, oak", "oak, larch", 1) == 1.0
        assert answer_f1("larch", "oak, larch", 1) == 0.5
        # a part too many costs nothing, as in the official script
        assert answer_f1("larch, oak, pine", "larch", 1) == 1.0
        assert answer_f1("larch oak pine", "larch", 4) == 0.5

    def test_adversarial_questions_ask_for_a_refusal(self) -> None:
        assert answer_f1("This is NOT MENTIONED anywhere.", None, 5) == 1.0
        assert answer_f1("No information available", "larch", 5) == 1.0
        assert answer_f1("larch", "larch", 5) == 0.0

    @pytest.mark.parametrize("category", [1, 2, 3, 4])
    def test_nothing_said_is_nothing_right(self, category: int) -> None:
        assert answer_f1("", "larch", category) == 0.0
        assert answer_f1("the", "a", category) == 0.0
        assert answer_f1("larch", "", category) == 0.0

    def test_short_words_are_kept_whole(self) -> None:
        assert answer_f1("is", "i", 4) == 0.0

    def test_a_question_without_answer_cannot_be_scored(self) -> None:
        with pytest.raises(InvalidArgument, match="cannot be scored"):
            answer_f1("larch", None, 4)
        with pytest.raises(InvalidArgument, match="cannot be scored"):
            answer_f1("larch", "larch", 6)

    @pytest.mark.shared
    @pytest.mark.skipif(not SHARED.exists(), reason=f"LoCoMo itself is not part of the repository: {SHARED}")
    def test_every_gold_answer_of_locomo_scores_1(self) -> None:
        for conversation in load_locomo(SHARED):
            for question in conversation.questions:
                if question.category != 5 and question.answer is not None:
                    said = question.answer.split(";")[0] if question.category == 3 else question.answer
                    assert locomo_answer_f1(said, question) == 1.0


class TestRetrieval:
    def test_recall_is_the_share_of_distinct_evidence(self) -> None:
        assert evidence_recall(["D1:1", "D1:2"], ("D1:2", "D9:9", "D1:2")) == 0.5
        assert evidence_recall([], ["D1:1"]) == 0.0

    def test_recall_counts_the_first_k(self) -> None:
        found = ["D1:1", "D1:2", "D1:3"]
        assert [evidence_recall(found, ["D1:3", "D1:1"], k=k) for k in (1, 2, 3, 10)] == [0.5, 0.5, 1.0, 1.0]

    @given(st.permutations(range(8)), st.sets(st.integers(0, 12), min_size=1))
    def test_hit_rank_and_recall_agree(self, order: list[int], wanted: set[int]) -> None:
        found, evidence = [str(i) for i in order], {str(i) for i in wanted}
        rank = reciprocal_rank(found, evidence)
        for k in range(1, 9):
            assert (
                hit_at_k(found, evidence, k) == (rank >= 1 / k) == (evidence_recall(found, evidence, k) > 0)
            )

    def test_questions_without_evidence_are_refused(self) -> None:
        for score in (evidence_recall, reciprocal_rank):
            with pytest.raises(InvalidArgument, match="without evidence"):
                score(["D1:1"], [])
        with pytest.raises(InvalidArgument, match="without evidence"):
            hit_at_k(["D1:1"], [], 5)

    def test_bad_arguments_are_refused(self) -> None:
        with pytest.raises(InvalidArgument, match="k must be 1 or more"):
            hit_at_k(["D1:1"], ["D1:1"], 0)
        with pytest.raises(InvalidArgument, match="not a string"):
            evidence_recall(["D1:1"], "D1:1")
