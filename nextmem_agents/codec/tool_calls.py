"""What a Qwen3 model writes, told apart as it comes: reasoning, text, and tool calls.

Reasoning stands in ``<think>…</think>``, a call in ``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` (the
format of Hermes, which Qwen3 is trained on).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A call: the tool's name and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class InvalidToolCall:
    """What stands where a call should be, and what is wrong with it."""

    text: str
    error: str


Event: TypeAlias = Text | Reasoning | ToolCall | InvalidToolCall

_THINK, _END_THINK = "<think>", "</think>"
_CALL, _END_CALL = "<tool_call>", "</tool_call>"


class ReplyParser:
    """Takes a reply piece by piece and gives what is certain of it.

    Args:
        tools: whether calls are looked for; without tools a ``<tool_call>`` is text.
        reasoning: whether the prompt already opened ``<think>``.

    Examples:
        >>> parser = ReplyParser()
        >>> events = parser.feed('Let me see.\\n<tool_call>\\n{"name": "weather", "argum')
        >>> events += parser.feed('ents": {"city": "Oslo"}}\\n</tool_call>') + parser.finish()
        >>> events
        [Text(text='Let me see.'), ToolCall(name='weather', arguments={'city': 'Oslo'})]
    """

    def __init__(self, *, tools: bool = True, reasoning: bool = False):
        self._tools = tools
        self._end = _END_THINK if reasoning else None  # the tag that ends what is open; None in the answer
        self._held = ""
        self._blank = ""  # line breaks that are dropped if a call, or nothing, follows
        self._begun = False  # whether the answer has a character yet

    def feed(self, piece: str) -> list[Event]:
        """What the next piece makes certain."""
        self._held += piece
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """What is left at the end of the reply; a call that was cut off is an invalid one."""
        rest, self._held = self._held, ""
        if self._end == _END_CALL:
            return [InvalidToolCall(rest, f"the reply ends before {_END_CALL}")]
        if self._end == _END_THINK:
            return [Reasoning(rest)] if rest else []
        return self._text(rest)

    def _step(self, events: list[Event]) -> bool:
        """Take one part of what is held; False if more has to come first."""
        tags = [self._end] if self._end else [_THINK, *([_CALL] if self._tools else [])]
        found = min(((at, tag) for tag in tags if (at := self._held.find(tag)) >= 0), default=None)
        if found is None:
            if self._end != _END_CALL:  # a call is taken whole
                sure = len(self._held) - max(_overlap(self._held, tag) for tag in tags)
                events += self._inner(self._held[:sure])
                self._held = self._held[sure:]
            return False
        at, tag = found
        before, self._held = self._held[:at], self._held[at + len(tag) :]
        if tag == _END_CALL:
            events.append(_call(before))
        else:
            events += self._inner(before)
        self._blank = ""
        self._end = {_THINK: _END_THINK, _CALL: _END_CALL}.get(tag)
        return True

    def _inner(self, text: str) -> list[Event]:
        if self._end == _END_THINK:
            return [Reasoning(text)] if text else []
        return self._text(text)

    def _text(self, text: str) -> list[Event]:
        text = self._blank + text
        if not self._begun:
            text = text.lstrip("\n")
        kept = text.rstrip("\n")
        self._blank = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return [Text(kept)] if kept else []


def parse_reply(text: str, *, tools: bool = True, reasoning: bool = False) -> list[Event]:
    """A whole reply; neighbouring pieces of one kind are one event. Arguments as in :class:`ReplyParser`."""
    parser = ReplyParser(tools=tools, reasoning=reasoning)
    return joined([*parser.feed(text), *parser.finish()])


def joined(events: Iterable[Event]) -> list[Event]:
    """The same with neighbouring pieces of text, and of reasoning, put together."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Text) and isinstance(last, Text):
            result[-1] = Text(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + event.text)
        else:
            result.append(event)
    return result


def _call(text: str) -> ToolCall | InvalidToolCall:
    try:
        value = json.loads(text)
    except ValueError as error:
        return InvalidToolCall(text.strip(), f"it is no JSON: {error}")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return InvalidToolCall(text.strip(), 'it is no object with a "name"')
    arguments = value.get("arguments") or {}
    if not isinstance(arguments, dict):
        return InvalidToolCall(text.strip(), "its arguments are no object")
    return ToolCall(value["name"], arguments)


def _overlap(text: str, tag: str) -> int:
    """How many last characters of a text are the first ones of a tag."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:n])), 0)
