"""Text that ordinary corpora have too little of: digits, hex, names, code, addresses, other scripts, emoji.

A codec trained without it reconstructs prose perfectly and long digit strings at .87. Everything is drawn
from a seeded generator; nothing is copied from anywhere.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator

_SYLLABLES = (
    "an ar bel bra cam che da den dor el em fa fen gar gre ha hol in ir jo ka kel la lin lo ma mar mi mor na "
    "nel no or pa per qui ra ren ro sa sel shi sor ta ten tho ti ul va ven vi wen xi ya yor za zel"
).split()
_WORDS = (
    "value index result count total user name data item key path line token order config buffer state node "
    "left right start end size limit offset cache query text"
).split()
# (first, last) code points of scripts and symbols that people do paste into chats.
_SCRIPTS = [
    (0x00C0, 0x00FF), (0x0100, 0x017F), (0x0370, 0x03FF), (0x0400, 0x04FF), (0x05D0, 0x05EA), (0x0621, 0x064A),
    (0x0905, 0x0939), (0x0E01, 0x0E30), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FBF), (0xAC00, 0xD7A3),
    (0x2010, 0x2027), (0x20A0, 0x20BF), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6C5),
    (0x1F900, 0x1F9FF),
]  # fmt: skip


def _digits(r: random.Random, low: int = 1, high: int = 12) -> str:
    return "".join(r.choices(string.digits, k=r.randint(low, high)))


def _hex(r: random.Random) -> str:
    text = "".join(r.choices("0123456789abcdef", k=r.choice([6, 8, 12, 16, 32, 40])))
    return r.choice([text, text.upper(), "0x" + text, "#" + text[:6]])


def _uuid(r: random.Random) -> str:
    h = "".join(r.choices("0123456789abcdef", k=32))
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def made_up_word(r: random.Random) -> str:
    """Two to four syllables that are hardly ever a word."""
    return "".join(r.choices(_SYLLABLES, k=r.randint(2, 4)))


_word = made_up_word


def _name(r: random.Random) -> str:
    return " ".join(_word(r).capitalize() for _ in range(r.randint(1, 3)))


def _date(r: random.Random) -> str:
    y, m, d = r.randint(1900, 2035), r.randint(1, 12), r.randint(1, 28)
    months = "January February March April May June July August September October November December".split()
    month = months[m - 1]
    return r.choice([
        f"{y}-{m:02d}-{d:02d}", f"{d} {month} {y}", f"{month} {d}, {y}", f"{d:02d}/{m:02d}/{y}", f"{month[:3]} {d}",
        f"{y}-{m:02d}-{d:02d}T{r.randint(0, 23):02d}:{r.randint(0, 59):02d}:{r.randint(0, 59):02d}Z",
        f"{r.randint(1, 12)}:{r.randint(0, 59):02d} {r.choice(['am', 'pm'])}",
    ])  # fmt: skip


def _number(r: random.Random) -> str:
    return r.choice([
        f"{r.randint(0, 10**9):,}", f"{r.uniform(0, 1000):.{r.randint(1, 6)}f}", f"${r.uniform(1, 9999):.2f}",
        f"{r.uniform(0, 100):.1f}%", f"+{_digits(r, 1, 3)} {_digits(r, 3, 3)} {_digits(r, 4, 7)}",
        f"{r.uniform(1, 10):.3f}e-{r.randint(1, 12)}", f"{r.randint(1, 255)}.{r.randint(0, 255)}.{r.randint(0, 255)}.1",
    ])  # fmt: skip


def _address(r: random.Random) -> str:
    host = f"{_word(r)}.{r.choice(['com', 'org', 'net', 'io', 'de', 'co.uk'])}"
    return r.choice([
        f"{_word(r)}.{_word(r)}@{host}",
        f"https://{host}/{_word(r)}/{_digits(r)}?{r.choice(_WORDS)}={_digits(r, 1, 4)}",
        f"www.{host}/{_word(r)}-{_word(r)}.html", f"/{_word(r)}/{_word(r)}/{r.choice(_WORDS)}_{_digits(r, 1, 3)}.json",
        f"C:\\{_word(r)}\\{_word(r)}.txt", f"{_digits(r, 1, 3)} {_name(r)} Street",
    ])  # fmt: skip


def _code(r: random.Random) -> str:
    a, b, c = r.sample(_WORDS, 3)
    return r.choice([
        f"def {a}_{b}({c}: int = {_digits(r, 1, 3)}) -> list[str]:\n    return [str(x) for x in {c}]",
        f"for {a} in range({_digits(r, 1, 4)}):\n    if {a} % {r.randint(2, 9)} == 0:\n        {b}[{a}] += {c}",
        f'{{"{a}": "{_word(r)}", "{b}": [{_digits(r, 1, 3)}, {_digits(r, 1, 3)}], "{c}": null}}',
        f"SELECT {a}, {b} FROM {c} WHERE {a} = '{_word(r)}' LIMIT {_digits(r, 1, 3)};",
        f"const {a} = ({b}) => {{ return {b}.{c} ?? '{_word(r)}'; }};",
        f"<div class=\"{a}-{b}\" id='{_hex(r)}'>{_name(r)}</div>",
        f"$ {a} --{b}={_digits(r)} | grep -v '{_word(r)}' > {c}.log 2>&1",
        f"x_{{{r.randint(1, 9)}}} = \\frac{{{a}}}{{{r.randint(2, 99)}}} + \\alpha^{r.randint(2, 9)}",
        f"#include <{a}.h>\nint {b}(char *{c}) {{ return {c}[{r.randint(0, 99)}] != 0; }}",
    ])  # fmt: skip


def _script(r: random.Random) -> str:
    first, last = r.choice(_SCRIPTS)
    length = r.randint(1, 12)
    text = "".join(chr(r.randint(first, last)) for _ in range(length))
    return text if r.random() < 0.7 else " ".join(text)


def _marks(r: random.Random) -> str:
    return "".join(r.choices(string.punctuation + "  \n\t", k=r.randint(1, 24)))


def _letters(r: random.Random) -> str:
    return "".join(r.choices(string.ascii_letters + string.digits, k=r.randint(4, 24)))


_KINDS: list[Callable[[random.Random], str]] = [
    _digits, _hex, _uuid, _name, _name, _date, _number, _number, _address, _code, _code, _script, _script, _marks,
    _letters, lambda r: " ".join(_word(r) for _ in range(r.randint(2, 8))),
    lambda r: r.choice(" \n\t") * r.randint(1, 40),
]  # fmt: skip


KINDS: dict[str, Callable[[random.Random], str]] = {
    "names": _name,
    "digits": _digits,
    "numbers": _number,
    "dates": _date,
    "addresses": _address,
    "hex ids": lambda r: r.choice((_hex, _uuid))(r),
    "code": _code,
}
"""Pieces by kind, for who wants one kind at a time."""


def synthetic_texts(count: int, seed: int) -> Iterator[str]:
    """Yield ``count`` short texts, each a few pieces of one or several kinds.

    Examples:
        >>> list(synthetic_texts(2, seed=0)) == list(synthetic_texts(2, seed=0))
        True
    """
    r = random.Random(seed)
    for _ in range(count):
        if r.random() < 0.5:
            kind = r.choice(_KINDS)
            yield r.choice([" ", ", ", "\n", "; "]).join(kind(r) for _ in range(r.randint(1, 8)))
        else:
            yield r.choice([" ", ", ", "\n", ": "]).join(r.choice(_KINDS)(r) for _ in range(r.randint(2, 8)))
