"""A measured table with where it came from: machine, commit, date, command."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch


@dataclass(frozen=True)
class Source:
    """Where figures came from."""

    machine: str
    torch: str
    commit: str
    date: str
    command: str

    def __str__(self) -> str:
        return f"{self.machine}, {self.torch}, commit {self.commit}, {self.date}, by `{self.command}`"


def source(script: str) -> Source:
    """The source of what ``script`` measures now."""
    return Source(
        f"{_processor()}, {os.cpu_count()} cores",
        f"torch {torch.__version__} with {torch.get_num_threads()} thread(s)",
        _commit(),
        f"{datetime.now(timezone.utc):%Y-%m-%d}",
        f"python benchmarks/{Path(script).name}",
    )


def _commit() -> str:
    """The commit that is checked out, ``-dirty`` if code differs from it; other tables, just written, may."""
    git = shutil.which("git")
    if not git:
        return "?"

    def said(*arguments: str) -> str:
        return subprocess.run([git, *arguments], capture_output=True, text=True, check=False).stdout.strip()

    commit = said("rev-parse", "--short=7", "HEAD")
    tables = (f":(top,exclude){found}" for found in ("*.md", "benchmarks/*.json", "docs/images"))
    changed = said("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *tables)
    return f"{commit or '?'}{'-dirty' if changed else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A section with a title, a note and a table."""
    table = [header, ["---"] * len(header), *rows]
    lines = [f"# {title}", "", note, "", *(f"| {' | '.join(map(str, row))} |" for row in table)]
    return "\n".join(lines) + "\n"


def write_table(
    script: str, title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print a Markdown table and write it beside ``script``, under the same name with ``.md`` and as ``.json``."""
    origin = source(script)
    text = f"{markdown(title, note, header, rows)}\n{origin}\n"
    Path(script).with_suffix(".md").write_text(text, encoding="utf-8")
    found = [dict(zip(header, row, strict=True)) for row in rows]
    content = json.dumps({"title": title, "source": asdict(origin), "rows": found}, indent=1, default=str)
    Path(script).with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    print(text)
