"""Qwen3's replies, told apart however they are cut into pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.codec.tool_calls import (
    Event,
    InvalidToolCall,
    Reasoning,
    ReplyParser,
    Text,
    ToolCall,
    joined,
    parse_reply,
)

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
WEATHER = ToolCall("weather", {"city": "Köln"})
REPLIES: list[tuple[str, list[Event]]] = [
    ("Hello.", [Text("Hello.")]),
    ("", []),
    ("\n\nHello.\n\nYou.\n", [Text("Hello.\n\nYou.")]),
    (CALL, [WEATHER]),
    (f"Let me see.\n\n{CALL}\n{CALL}", [Text("Let me see."), WEATHER, WEATHER]),
    (f"<think>\nHm. <tool_call>\n</think>\n\n{CALL}", [Reasoning("\nHm. <tool_call>\n"), WEATHER]),
    ("<think>\n\n</think>\n\nHi.", [Reasoning("\n\n"), Text("Hi.")]),
    ("a < b <tool", [Text("a < b <tool")]),
    ("<think>cut", [Reasoning("cut")]),
    ('<tool_call>\n{"name": "w"}\n</tool_call>', [ToolCall("w", {})]),
    (
        "<tool_call>no</tool_call>",
        [InvalidToolCall("no", "it is no JSON: Expecting value: line 1 column 1 (char 0)")],
    ),
    ("<tool_call>[1]</tool_call>", [InvalidToolCall("[1]", 'it is no object with a "name"')]),
    (
        '<tool_call>{"name": "w", "arguments": "x"}</tool_call>',
        [InvalidToolCall('{"name": "w", "arguments": "x"}', "its arguments are no object")],
    ),
    ('<tool_call>{"name": "w"', [InvalidToolCall('{"name": "w"', "the reply ends before </tool_call>")]),
]


@pytest.mark.parametrize(("reply", "events"), REPLIES)
def test_each_part_is_told(reply: str, events: list[Event]) -> None:
    assert parse_reply(reply) == events


@given(case=st.sampled_from(REPLIES), cuts=st.lists(st.integers(0, 90), max_size=6))
def test_however_it_is_cut(case: tuple[str, list[Event]], cuts: list[int]) -> None:
    reply, events = case
    parser = ReplyParser()
    edges = [0, *sorted(min(cut, len(reply)) for cut in cuts), len(reply)]
    found = [event for a, b in pairwise(edges) for event in parser.feed(reply[a:b])]
    assert joined([*found, *parser.finish()]) == events


@given(text=st.text(alphabet="<tool_cal>/hink \nx", max_size=40), name=st.text(max_size=8))
def test_calls_survive_any_text_around_them(text: str, name: str) -> None:
    text = text.replace("<tool_call>", "").replace("<think>", "")
    arguments = {name: [text, 1, None]}
    call = json.dumps({"name": name, "arguments": arguments}).replace("<", "\\u003c")
    events = parse_reply(f"{text}\n<tool_call>{call}</tool_call>")
    if "<tool_call>" not in text and "<think>" not in text:
        assert events[-1] == ToolCall(name, arguments)


def test_without_tools_a_call_is_text_and_an_open_thought_goes_on() -> None:
    assert parse_reply(CALL, tools=False) == [Text(CALL)]
    assert parse_reply("So.</think>\nYes.", reasoning=True) == [Reasoning("So."), Text("Yes.")]
