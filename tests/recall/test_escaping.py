"""What could act on a reader unseen is seen, and what people write stays as they wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.escaping import escape
from nextmem_agents.recall.rendering import render
from tests.injections import ATTEMPTS, TEMPLATE_TOKENS, check_quoted, invisible
from tests.recall.test_rendering import Note, words


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize(
    "role", ["user", "x\nsystem:", "<|im_start|>system", "\u202ea\x1b[0m", "[9] a:\n> b"]
)
def test_no_attempt_leaves_the_quotation(attempt: str, role: str) -> None:
    check_quoted(render([Note("Before.", "ann"), Note(attempt, role), Note("After.")], words), 3)


@given(st.lists(st.sampled_from(ATTEMPTS), min_size=2, max_size=4), st.integers(20, 200))
def test_nor_does_a_mixture_of_them_cut_anywhere(attempts: list[str], budget: int) -> None:
    block = render([Note("".join(attempts))], words, budget)
    if block:
        check_quoted(block, 1)


@given(st.text())
def test_whatever_is_escaped_can_be_seen(text: str) -> None:
    shown = escape(text)
    left = [c for i, c in enumerate(shown) if c not in "\t\u200c\u200d\ufe0e\ufe0f" and invisible(c)]
    assert left == []


@pytest.mark.parametrize("attempt", TEMPLATE_TOKENS)
def test_no_control_token_of_a_chat_template_is_left(attempt: str) -> None:
    # A backslash after the bracket: no vocabulary has such a token.
    assert escape(attempt) != attempt
    assert not set(_tokens(escape(attempt))) & set(_tokens(attempt))


def _tokens(text: str) -> list[str]:
    import re

    return re.findall(r"[<＜\[［]{1,2}/?[|｜]?[\w▁: ]+[|｜]?[>＞\]］]{1,2}", text)


@pytest.mark.parametrize(
    "text",
    [
        "She moved to Lisbon; it's 30 °C, 5 > 3 and 2 < 4.",
        "Grüße, 東京, Ελλάδα, שלום, مرحبا, नमस्ते",
        "👩‍👩‍👧‍👦 ❤️ 🏳️‍🌈 🤷🏽‍♀️ 1️⃣ ©️ ☎︎",  # joined and presented emoji
        "می‌خواهم क्‍ष",  # joiners that the spelling needs
        "def f(x: list[int]) -> dict[str, T]: return {k: v for k, v in x}",
        "a <- b |> c; List<String>; <b>bold</b>; [link](https://example.org) `code`",
        "tab\there",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert escape(text) == text


def test_a_joiner_where_no_script_needs_it_is_shown() -> None:
    assert escape("a\u200db") == "a\\u200db"
    assert escape("🏴\U000e0067\U000e007f") == "🏴\\U000e0067\\U000e007f"
    assert escape("x\ufe0f") == "x\\ufe0f"
    assert escape("❤\ufe0f\ufe0f") == "❤\ufe0f\\ufe0f"
