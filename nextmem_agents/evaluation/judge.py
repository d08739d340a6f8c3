"""An LLM judge: whether a reply is right, asked of a model with a prompt whose hash stands beside every verdict.

The prompts are LongMemEval's (``get_anscheck_prompt`` of https://github.com/xiaowu0162/LongMemEval, MIT), by the kind
of question; its authors use gpt-4o-2024-08-06 with 10 tokens at temperature 0, and take a reply with "yes" in it for
yes. LoCoMo has no official judge and gets the first of them; a score by another prompt is another score.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from nextmem_agents.evaluation.benchmark import ADVERSARIAL, Query
from nextmem_agents.evaluation.longmemeval import ABSTENTION
from nextmem_agents.evaluation.readers.reader import Reader

_RIGHT = (
    "I will give you a question, a correct answer, and a response from a model. Please answer yes if the response "
    "contains the correct answer. Otherwise, answer no. "
)
_EQUIVALENT = (
    "If the response is equivalent to the correct answer or contains all the intermediate steps to get the correct "
    "answer, you should also answer yes. If the response only contains a subset of the information required by the "
    "answer, answer no. "
)
_ASKED = (
    "\n\nQuestion: {question}\n\nCorrect Answer: {answer}\n\nModel Response: {reply}\n\nIs the model response correct? "
    "Answer yes or no only."
)
GENERAL = _RIGHT + _EQUIVALENT + _ASKED
PROMPTS = {
    "temporal-reasoning": _RIGHT
    + _EQUIVALENT
    + "In addition, do not penalize off-by-one errors for the number of days. If the question asks for the number of "
    "days/weeks/months, etc., and the model makes off-by-one errors (e.g., predicting 19 days when the answer is 18), "
    "the model's response is still correct. " + _ASKED,
    "knowledge-update": _RIGHT
    + "If the response contains some previous information along with an updated answer, the response should be "
    "considered as correct as long as the updated answer is the required answer." + _ASKED,
    "single-session-preference": (
        "I will give you a question, a rubric for desired personalized response, and a response from a model. Please "
        "answer yes if the response satisfies the desired response. Otherwise, answer no. The model does not need to "
        "reflect all the points in the rubric. The response is correct as long as it recalls and utilizes the user's "
        "personal information correctly.\n\nQuestion: {question}\n\nRubric: {answer}\n\nModel Response: {reply}\n\nIs "
        "the model response correct? Answer yes or no only."
    ),
    ABSTENTION: (
        "I will give you an unanswerable question, an explanation, and a response from a model. Please answer yes if "
        "the model correctly identifies the question as unanswerable. The model could say that the information is "
        "incomplete, or some other information is given but the asked information is not.\n\nQuestion: {question}\n\n"
        "Explanation: {answer}\n\nModel Response: {reply}\n\nDoes the model correctly identify the question as "
        "unanswerable? Answer yes or no only."
    ),
}
_EXPLANATION = "The conversation does not say."


def prompts_hash() -> str:
    """SHA-256 (hex) of all prompts together."""
    return hashlib.sha256(json.dumps([GENERAL, PROMPTS], sort_keys=True).encode()).hexdigest()


def judge_prompt(query: Query, reply: str) -> str:
    """What the judge is asked about a reply."""
    kind = ABSTENTION if query.category == ADVERSARIAL else query.category
    answer = query.answers[0] if query.answers else _EXPLANATION
    values = {"question": query.text, "answer": answer, "reply": reply}
    text = PROMPTS.get(kind, GENERAL)
    # Not str.format, nor one replacement after another: a reply may hold braces, or the name of another field.
    parts: list[str] = []
    while text:
        before, brace, after = text.partition("{")
        name, _, rest = after.partition("}")
        parts += [before, values[name]] if brace else [before]
        text = rest if brace else ""
    return "".join(parts)


@dataclass(frozen=True)
class Judge:
    """A model that judges."""

    reader: Reader

    def settings(self) -> dict[str, Any]:
        """Its model and the hash of its prompts."""
        return {**self.reader.settings(), "instructions": "", "prompts_sha256": prompts_hash()}

    def verdict(self, query: Query, reply: str) -> dict[str, Any]:
        """Whether a reply is right, with the judge's own words.

        Raises:
            ReaderError: the judge gave no reply.
        """
        prompt = judge_prompt(query, reply)
        said = self.reader.reply(prompt, "")
        return {
            "judge": self.reader.name,
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "verdict": said,
            "right": "yes" in said.lower(),
        }
