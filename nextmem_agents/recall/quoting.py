"""A reply without a language model: the recalled block of a prompt is read back, and its best sentence quoted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nextmem_agents.recall.extract import best_sentence
from nextmem_agents.recall.rendering import HEADING

_MEMORY = r"\n\[\d+\] [^\n]*:(?:\n> [^\n]*)+"
_BLOCK = re.compile(rf"^{re.escape(HEADING)}((?:{_MEMORY})+)", re.MULTILINE)


@dataclass(frozen=True)
class _Quote:
    text: str
    score: float


def recalled_texts(prompt: str) -> tuple[list[str], str]:
    """The texts of the last block that ``recall.rendering`` wrote into a prompt, best first, and what follows it.

    Without such a block there are no texts, and what follows is the whole prompt.

    Examples:
        >>> from nextmem_agents.recall.rendering import HEADING
        >>> recalled_texts(f"{HEADING}\\n[1] user:\\n> I moved to Lisbon.\\n\\nWhere did I move?")
        (['I moved to Lisbon.'], '\\n\\nWhere did I move?')
    """
    blocks = list(_BLOCK.finditer(prompt))
    if not blocks:
        return [], prompt
    memories = re.findall(_MEMORY, blocks[-1][1])
    texts = ["\n".join(line[2:] for line in memory.split("\n")[2:]).strip() for memory in memories]
    return texts, prompt[blocks[-1].end() :]


def quoted_reply(question: str, texts: Sequence[str], *, noted: str, nothing_recalled: str) -> str:
    """The sentence of the recalled texts that best fits the question, word for word.

    Neither texts that are questions themselves are quoted, nor the two set replies: ``noted`` to what is no question,
    ``nothing_recalled`` where there is nothing to quote.

    Examples:
        >>> quoted_reply("Where did I move?", ["I moved to Lisbon."], noted="Noted.", nothing_recalled="Unknown.")
        'I moved to Lisbon.'
    """
    if not question.endswith("?"):
        return noted
    # The block names no scores; its order is theirs.
    quotes = [
        _Quote(text, 0.95**i)
        for i, text in enumerate(texts)
        if not text.endswith("?") and text not in (noted, nothing_recalled)
    ]
    return best_sentence(question, quotes) or nothing_recalled
