"""The judge is asked LongMemEval's own questions, and its prompts have a hash."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.evaluation.benchmark import Query
from nextmem_agents.evaluation.judge import GENERAL, PROMPTS, Judge, judge_prompt, prompts_hash
from tests.evaluation.tiny_study import Recording


def query(category: str = "multi-session", *answers: str) -> Query:
    return Query("q", "Where?", category, answers or ("Porto",))


def test_the_prompt_is_the_published_one_for_its_kind() -> None:
    assert judge_prompt(query(), "In Porto.") == (
        "I will give you a question, a correct answer, and a response from a model. Please answer yes if the response "
        "contains the correct answer. Otherwise, answer no. If the response is equivalent to the correct answer or "
        "contains all the intermediate steps to get the correct answer, you should also answer yes. If the response "
        "only contains a subset of the information required by the answer, answer no. \n\nQuestion: Where?\n\nCorrect "
        "Answer: Porto\n\nModel Response: In Porto.\n\nIs the model response correct? Answer yes or no only."
    )
    assert "off-by-one" in judge_prompt(query("temporal-reasoning"), "x")
    assert "\n\nRubric: Porto" in judge_prompt(query("single-session-preference"), "x")
    assert "unanswerable question" in judge_prompt(Query("q", "Where?", "adversarial", ()), "x")
    for kind in ("multi-hop", "single-hop", "single-session-user"):
        assert judge_prompt(query(kind), "x") == judge_prompt(query(), "x")


@given(st.text())
def test_a_reply_stands_in_the_prompt_as_it_is(reply: str) -> None:
    before, after = GENERAL.split("{reply}")
    filled = before.replace("{question}", "Where?").replace("{answer}", "{question}")
    assert judge_prompt(query("single-hop", "{question}"), reply) == filled + reply + after


def test_a_verdict_keeps_the_judges_words() -> None:
    reader = Recording("Yes, it does.", instructions="Answer in a short phrase.")
    judge = Judge(reader)
    verdict = judge.verdict(query(), "In Porto.")
    assert (verdict["judge"], verdict["verdict"], verdict["right"]) == ("recording", "Yes, it does.", True)
    assert reader.systems == [""]  # a judge gets no reader's instructions
    assert Judge(Recording("No.")).verdict(query(), "x")["right"] is False
    assert judge.settings()["prompts_sha256"] == prompts_hash()
    assert len(PROMPTS) == 4
