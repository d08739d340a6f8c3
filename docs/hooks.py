"""What MkDocs does not do by itself: files of the repository as pages, and links that hold both here and there.

``<!-- include: README.md#Figures -->`` stands for that section of that file, and ``<!-- include: CONTRIBUTING.md -->``
for the whole file without its title; ``<!-- include: benchmarks/*.md -->`` for several, one level down, with their
titles. ``<!-- list: results -->`` stands for links to the pages of that folder.
A link to a file of the repository becomes one to the page that holds it, or plain text where none does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "nextmem_agents/checkpoints/mini/README.md": "cards/mini.md",
    "nextmem_agents/checkpoints/mini-dense/README.md": "cards/mini-dense.md",
    "nextmem_agents/checkpoints/mini-16/README.md": "cards/mini-16.md",
}
SECTIONS = {"figures": "results.md", "when-not-to-use-it": "when-not-to-use.md"}
"""Sections of the README that other pages than the first hold."""
_INCLUDE = re.compile(r"^<!-- include: (?P<file>[^#\s]+)(?:#(?P<section>.+?))? -->$", re.MULTILINE)
_LIST = re.compile(r"^<!-- list: (?P<folder>\S+) -->$", re.MULTILINE)
_CODE = re.compile(r"^[ \t]*(?P<fence>`{3,})[^\n]*\n.*?^[ \t]*(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s]+)\)")
_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):<code>~?(?:[\w.]+\.)?(\w+)</code>")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text with what it includes, and with links that hold."""
    here = page.file.src_uri
    text = _LIST.sub(lambda found: listed(found["folder"], here), linked(markdown, f"docs/{here}", here))
    return _INCLUDE.sub(
        lambda found: "\n\n".join(
            linked(part, file, here) for file, part in included(found["file"], found["section"])
        ),
        text,
    )


def on_page_content(html: str, **_: Any) -> str:
    """Roles of docstrings, ``:class:`X```, as plain code."""
    return _ROLE.sub(r"<code>\1</code>", html)


def included(pattern: str, section: str | None) -> Iterator[tuple[str, str]]:
    """The files of a name or pattern, with what of each is shown."""
    if "*" not in pattern:
        yield pattern, _section((ROOT / pattern).read_text(encoding="utf-8"), pattern, section)
        return
    for path in sorted(ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(ROOT).as_posix(), re.sub(r"^#", "##", text, flags=re.MULTILINE)


def _section(text: str, file: str, section: str | None) -> str:
    """A text without its title, or the section of it under a heading, up to the next heading of its level."""
    if section is None:
        return text.split("\n", 1)[1] if text.startswith("# ") else text
    if section == "top":
        return text.split("\n", 1)[1].partition("\n## ")[0]
    start = re.search(rf"^(#+) {re.escape(section)}$", text, re.MULTILINE)
    if start is None:
        raise ValueError(f"{file} has no section {section!r}")
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def listed(folder: str, here: str) -> str:
    """Links to a folder's pages, by their titles."""
    lines = []
    for path in sorted((DOCS / folder).glob("*.md")):
        title = path.read_text(encoding="utf-8").lstrip("# ").split("\n", 1)[0]
        lines.append(f"- [{title}]({_relative(f'{folder}/{path.name}', here)})")
    return "\n".join(lines)


def linked(text: str, source: str, here: str) -> str:
    """Text of the repository's file ``source`` with its links as the page ``here`` needs them; code stays."""
    done, end = [], 0
    for code in [*_CODE.finditer(text), None]:
        prose = text[end : code.start()] if code else text[end:]
        done.append(_LINK.sub(lambda found: _link(found["text"], found["target"], source, here), prose))
        if code:
            done.append(code.group())
            end = code.end()
    return "".join(done)


def _link(text: str, target: str, source: str, here: str) -> str:
    path, _, anchor = target.partition("#")
    if source == "README.md" and not path and anchor in SECTIONS:
        return f"[{text}]({_relative(SECTIONS[anchor], here)})"
    if not path or re.match(r"[a-z]+:", target):
        return f"[{text}]({target})"
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
    if page is None:
        return text if (ROOT / file).exists() else f"[{text}]({target})"
    return f"[{text}]({_relative(page, here)}{'#' + anchor if anchor else ''})"


def _relative(page: str, here: str) -> str:
    return posixpath.relpath(page, posixpath.dirname(here) or ".")
