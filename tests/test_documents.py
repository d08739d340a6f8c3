"""What the documents show: each listing runs, each command exists, each link leads somewhere.

A ``python`` listing is a session (``>>>``), whose output is compared, or a program, whose assertions hold. What the
listings of one page define, the later ones know. Hosted models, a Qwen3-8B and a server have doubles here. A listing
that cannot run at all says so to the reader, in its first line: ``not run by the tests``.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import re
import shlex
import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nextmem_agents import LatentCodec, NextMem
from tests.codec import tiny
from tests.llama_index_nextmem.conftest import WARNINGS_OF_AGENTS, _closed_histories

ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted(ROOT.glob("nextmem_agents/checkpoints/*/README.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *CARDS,
]
OWN_TEST = {  # these look at what the listings did, too
    "docs/migration.md": "tests/langchain_nextmem/test_migration_page.py",
    "docs/migration-llama-index.md": "tests/llama_index_nextmem/test_migration_page.py",
}
NOT_RUN = "not run by the tests"
PROGRAMS = ("nextmem", "make", "python", "pytest", "pip")
_LISTING = re.compile(
    r"^(?P<indent>[ ]*)(?P<fence>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^[ ]*(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def listings(page: Path, *languages: str) -> list[tuple[int, str]]:
    """The listings of a page with their lines."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start()) + 2, textwrap.dedent(found["text"]))
        for found in _LISTING.finditer(text)
        if found["language"] in languages
    ]


def runnable(page: Path) -> bool:
    return bool(listings(page, "python")) and name(page) not in OWN_TEST


@pytest.fixture
def _doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page may name and this machine has not, stands for itself as far as it can be had here."""
    from langchain_nextmem import QuotingChatModel

    load, open_, opened = LatentCodec.load, NextMem.open, []

    def loading(which: Any, **settings: Any) -> LatentCodec:
        if str(which).lower() != "qwen3-8b":
            return load(which, **settings)
        folder = tmp_path / "qwen3-8b"
        tiny.write_whole(folder, name="qwen3-8b", answer_layout="released", positions="consecutive")
        return load(folder)

    def opening(location: Any = None, **settings: Any) -> NextMem:
        if str(location).startswith("http"):
            settings.pop("headers", None)
            location, settings["payload"] = tmp_path / "server", "chroma"
        opened.append(open_(location, **settings))
        return opened[-1]

    monkeypatch.setattr(LatentCodec, "load", staticmethod(loading))
    monkeypatch.setattr(NextMem, "open", staticmethod(opening))
    monkeypatch.setattr("langchain.agents.factory.init_chat_model", lambda *_, **__: QuotingChatModel())
    monkeypatch.setenv("NEXTMEM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield
    for store in opened:
        store.close()


def names_of(page: Path, memory: NextMem) -> dict[str, Any]:
    """What README's fragments take for granted; every other page begins at the beginning."""
    if name(page) != "README.md":
        return {}
    from llama_index_nextmem import QuotingLLM

    return {
        "alice": memory.scope("alice"),
        "store": memory,
        "llm": QuotingLLM(),
        "last_may": datetime(2025, 5, 1, tzinfo=timezone.utc),
    }


@pytest.mark.usefixtures(_closed_histories.__name__, "_doubles")
@pytest.mark.filterwarnings(*(str(mark.args[0]) for mark in WARNINGS_OF_AGENTS))
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
async def test_every_listing_runs_as_it_stands(page: Path, memory: NextMem) -> None:
    sessions: dict[str, Any] = {}
    programs = names_of(page, memory)
    runner = doctest.DocTestRunner(verbose=False, optionflags=_FLAGS)
    for line, text in listings(page, "python"):
        if NOT_RUN in text.partition("\n")[0]:
            continue
        if text.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(text, sessions, name(page), str(page), line - 1)
            said: list[str] = []
            # In a thread, where no event loop runs.
            await asyncio.to_thread(runner.run, test, out=said.append, clear_globs=False)
            sessions.update(test.globs)
            assert not said, "".join(said)
            continue
        code = compile("\n" * (line - 1) + text, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, programs)  # noqa: S307 - our own page
        if inspect.isawaitable(running):
            await running


@pytest.mark.parametrize("page", list(OWN_TEST))
def test_a_page_that_is_left_out_here_has_a_test_of_its_own(page: str) -> None:
    assert page in (ROOT / OWN_TEST[page]).read_text(encoding="utf-8")


def commands(page: Path) -> Iterator[str]:
    """Shell commands: of the listings, and those of this project that stand in the text."""
    for _, text in [*listings(page, "bash", "console"), *listings(page, "")]:
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.partition("  #")[0].split("&&"):
                if part.split(None, 1)[:1] and part.split(None, 1)[0] in PROGRAMS:
                    yield part.strip()
    prose = _LISTING.sub("", page.read_text(encoding="utf-8"))
    yield from (" ".join(found.split()) for found in re.findall(r"`(nextmem [^`]+)`", prose))


def check_command(line: str) -> None:
    """Fails where a command of this project, or a file or extra that it names, does not exist."""
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    match words:
        case ["nextmem", *arguments]:
            parse([word for word in arguments if word not in ("…", "...")])
        case ["make", *targets]:
            known = set(
                re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            )
            assert {target for target in targets if "=" not in target} <= known, line
        case ["python" | "pytest", path, *_] if not path.startswith("-"):
            assert (ROOT / path.partition("::")[0]).exists(), line
        case ["pip", "install", *packages]:
            extras = re.findall(
                r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M
            )
            for package in packages:
                if wanted := re.fullmatch(r"nextmem-agents\[(.+)\]", package):
                    assert set(wanted[1].split(",")) <= set(extras), line


def parse(arguments: list[str]) -> None:
    """Command and options, as the command line itself would; that a named file is not there does not matter."""
    from typer.main import get_command

    from nextmem_agents.cli import app

    command: Any = get_command(app)
    context: Any = None
    title = "nextmem"
    try:
        while True:
            context = command.make_context(title, arguments, parent=context)
            if not hasattr(command, "resolve_command"):
                return
            arguments = [*getattr(context, "_protected_args", ()), *context.args]
            if not arguments:
                return
            title, command, arguments = command.resolve_command(context, arguments)
    except Exception as error:
        if type(error).__name__ != "Exit" and not re.search("does not exist|Missing argument", str(error)):
            raise


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_exists_with_its_options(page: Path) -> None:
    for line in commands(page):
        check_command(line)


def anchors(page: Path) -> set[str]:
    """Its headings as GitHub and MkDocs name them."""
    prose = _LISTING.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+?)\s*$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in _LINK.findall(_LISTING.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)}: {target}"
        assert not anchor or anchor in anchors(file), f"{name(page)}: {target}"


def test_files_that_the_text_names_exist() -> None:
    for page in PAGES:
        if page.parent.name == "results":
            continue
        named = re.findall(
            r"`((?:docs|examples|benchmarks|tests|integrations|nextmem_agents)/[\w./-]+)`", page.read_text()
        )
        assert not [path for path in named if not (ROOT / path).exists()], name(page)


def test_readmes_tree_names_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = (text for _, text in listings(ROOT / "README.md", "") if text.startswith("nextmem_agents/"))
    top = ROOT
    for line in tree.splitlines():
        named = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("   ")[0]
        folder = ROOT if not line.startswith(" ") else top
        for each in re.findall(r"[\w.-]+/?", named):
            assert (folder / each).exists(), f"README's tree: {each}"
        if not line.startswith(" "):
            top = ROOT / named.split()[0]
    assert "## Files" in readme


def test_contributing_walks_a_newcomer_through_in_under_40_lines() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walk = text.partition("## A walk through the code")[2].partition("\n## ")[0].strip().splitlines()
    assert 0 < len(walk) < 40
    files = re.findall(r"`([\w/]+\.py)`", "\n".join(walk))
    assert len(files) > 10
    for file in files:
        assert list(ROOT.glob(f"nextmem_agents/**/{file.removeprefix('nextmem_agents/')}")), file


def test_the_site_builds_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="the documents' builder is in the extra docs")
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]+)"', text)
        assert not loaded, f"{page.name} loads {loaded} from elsewhere"
        nowhere = set(re.findall(r'href="#([^"]+)"', text)) - set(re.findall(r'id="([^"]+)"', text))
        assert not nowhere, f"{page} has links to {nowhere}"
