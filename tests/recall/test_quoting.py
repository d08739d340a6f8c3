"""What was rendered into a prompt is read back from it, whatever the memories say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.quoting import quoted_reply, recalled_texts
from nextmem_agents.recall.rendering import HEADING, escape, render

SET = {"noted": "Noted.", "nothing_recalled": "I have no memory of that."}


@dataclass(frozen=True)
class Rendered:
    text: str
    role: str | None = "user"
    occurred_at: datetime | None = None


TEXTS = st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4)


@given(TEXTS, st.text())
def test_each_memory_is_read_back_as_it_was_rendered(texts: list[str], before: str) -> None:
    block = render([Rendered(text) for text in texts], len)
    found, rest = recalled_texts(f"{before.replace(HEADING, '')}\n{block}\n\nWhere?")
    expected = ["\n".join(escape(line) for line in text.splitlines()).strip() for text in texts]
    assert (found, rest) == (expected, "\n\nWhere?")


def test_only_the_last_block_counts() -> None:
    blocks = [render([Rendered(text)], len) for text in ("Old.", "New.")]
    assert recalled_texts("\n".join([blocks[0], "Between?", blocks[1], "Now?"])) == (["New."], "\nNow?")
    assert recalled_texts("Nothing here?") == ([], "Nothing here?")


def test_questions_and_set_replies_are_never_quoted() -> None:
    texts = ["Where did I move?", "Noted.", "I moved to Lisbon.", "I have no memory of that."]
    assert quoted_reply("Where did I move?", texts, **SET) == "I moved to Lisbon."
    assert quoted_reply("Where did I move?", texts[:2], **SET) == "I have no memory of that."
    assert quoted_reply("I moved.", texts, **SET) == "Noted."
