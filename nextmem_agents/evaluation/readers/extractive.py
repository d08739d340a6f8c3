"""``ExtractiveReader``: the best-matching sentence of what it is given, word for word; a floor that anyone can run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nextmem_agents.evaluation.readers.reader import Reader
from nextmem_agents.recall.extract import best_sentence
from nextmem_agents.recall.quoting import recalled_texts
from nextmem_agents.recall.rendering import HEADING

_TAG = re.compile(r"</?[A-Za-z]\w*(?: [^>]*)?>")


@dataclass(frozen=True)
class _Passage:
    text: str
    score: float = 1.0


class ExtractiveReader(Reader):
    """Quotes the sentence that shares most words with the question, and understands nothing.

    All passages count alike: their order says where they rank in one memory, and when they were said in another. It
    never refuses, so it scores 0 where only a refusal is right. Without a passage it says that it has no memory.

    >>> memory = "Ann: My dog is Rufus. I like jazz."
    >>> ExtractiveReader().reply(f"{memory}\\n\\nQuestion: What is the dog called?\\nAnswer:")
    'Ann: My dog is Rufus.'
    """

    name = "extractive"
    nothing = "I have no memory of that."

    def reply(self, prompt: str, system: str | None = None) -> str:  # noqa: ARG002 - it follows no instructions
        """The best sentence before the question, which is the prompt's last line."""
        context, question = parts_of(prompt)
        return best_sentence(question, passages_of(context)) or self.nothing


def parts_of(prompt: str) -> tuple[str, str]:
    """What stands before the question, and the question."""
    body = prompt.strip().removesuffix("Answer:").rstrip()
    context, _, question = body.rpartition("\n")
    return context, question.removeprefix("Question: ").strip()


def passages_of(context: str) -> Sequence[_Passage]:
    """Recalled memories as the core renders them, or else the lines of any other text."""
    if HEADING in context:
        return [_Passage(text) for text in recalled_texts(context)[0]]
    lines = (_TAG.sub("", line).strip() for line in context.splitlines())
    return [_Passage(line) for line in lines if line]
