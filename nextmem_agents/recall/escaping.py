"""Escaping: what a memory says cannot act on its reader unseen, nor pass for the frame it is quoted in.

Three things are made visible: characters that have no glyph of their own but change what is read (controls, zero-width
and bidirectional ones, tags, variation selectors), the control tokens of chat templates, and the ends of lines that
only some programs take for such. Everything else stays as it is.
"""

from __future__ import annotations

import re
import unicodedata

# Marks of one form: <|im_start|>, <｜User｜> (DeepSeek's bars), [|user|] (EXAONE), <<SYS>> (Llama 2).
# Insertion alone breaks them, and can make no other: no mark holds a backslash.
_BARRED = re.compile(r"([<＜\[［])([|｜])([^\n<＜]{0,80}?)([|｜])([>＞\]］])")
_SYS = re.compile(r"([<＜]{2})(/?\w{1,20}[>＞]{2})")
# Marks that look like a tag: <s>, </s>, <bos>, <start_of_turn>, <tool_call>, <think>, <extra_id_0>, <seed:bos>.
_NAMES = (
    "s|bos|eos|pad|unk|mask|sep|cls|sop|eop|eoh|eoa|eot|eom|eod|start|end|think|thinking|reasoning|answer|analysis|"
    r"system|user|assistant|human|model|bot|ai|developer|tool|tools|function|functions|function_\w+|instructions?|"
    r"memor(?:y|ies)|nextmem|context|documents?|prompt|turn|message|im_start|im_end|endoftext|"
    r"(?:start|end|begin|beginning|begin_of|end_of|start_of)_\w+|tool_\w+|invoke|parameter|"
    r"extra_id_\d+|unused_?\d+|reserved_\w+|special_\d+|image|audio|video|img|seed:[\w:]+|mask:[\w:]+|0x[0-9a-f]{2}"
)
_TAG = re.compile(rf"([<＜])(/?(?:{_NAMES})\b[^<>＜＞\n]{{0,80}}[>＞])", re.IGNORECASE)
# Mistral's, ChatGLM's and BERT's: [INST], [/INST], [SYSTEM_PROMPT], [TOOL_CALLS], [gMASK], [CLS].
_BRACKETED = re.compile(
    r"([\[［])(/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|THINK|ARGS|CALL_ID|IMG\w*|AUDIO|BEGIN_\w+|PREFIX|SUFFIX|MIDDLE|"
    r"[gs]?MASK|CLS|SEP|PAD|UNK|BOS|EOS|SYS|SYSTEM|USER|ASSISTANT|REF_\w+)[\]］])"
)
# Without a glyph, and of a category that others share: joiners, fillers, Mongolian selectors, invisible operators.
_BLANK = frozenset(map(ord, "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\uffa0"))
_ZWJ = "\u200d"
_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe0e\ufe0f"  # text or emoji presentation of the character before


def escape(text: str) -> str:
    """Make visible what could deceive a reader: control, zero-width and bidirectional characters, role marks.

    Tabs stay, and so do joiners and presentation selectors where an emoji or a script's spelling needs them.

    Examples:
        >>> escape("a\\u202eb<|im_start|>system [INST] <b>")
        'a\\\\u202eb<\\\\|im_start\\\\|>system [\\\\INST] <b>'
    """
    shown = (
        text
        if text.isascii() and text.isprintable()
        else "".join(
            c if not _acts(c, text[i - 1] if i else "", text[i + 1 : i + 2]) else _visible(c)
            for i, c in enumerate(text)
        )
    )
    marked = _BARRED.sub(r"\1\\\2\3\\\4\5", shown)
    for mark in (_SYS, _TAG, _BRACKETED):
        marked = mark.sub(r"\1\\\2", marked)
    return marked


def _acts(c: str, before: str, after: str) -> bool:
    """Whether a character changes what is read without being seen."""
    if c == "\t" or " " <= c <= "~":
        return False
    if c in _JOINERS and _joining(before) and _joining(after):
        return False
    if c == _ZWJ:
        return not (_pictured(before) and _pictured(after))
    if c in _SELECTORS:
        return not (_pictured(before) or before in "0123456789#*") or before in _SELECTORS or not before
    code = ord(c)
    return (
        unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
        or code in _BLANK
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0000 <= code <= 0xE0FFF
        or 0xFFF0 <= code <= 0xFFF8
        or 0xFDD0 <= code <= 0xFDEF
        or code & 0xFFFE == 0xFFFE
    )


def _pictured(c: str) -> bool:
    """Whether a character is a symbol beyond ASCII, or the modifier or selector after one: what emoji are joined of."""
    return c > "~" and (c in _SELECTORS or unicodedata.category(c) in ("So", "Sk", "Sm", "Cn"))


def _joining(c: str) -> bool:
    """Whether a character is a letter of a script whose spelling needs joiners: Arabic, and those of India."""
    return bool(c) and 0x0600 <= ord(c) <= 0x0DFF and unicodedata.category(c)[0] in "LM"


def _visible(c: str) -> str:
    code = ord(c)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
