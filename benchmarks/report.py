"""A measured table with where it came from: machine, commit, date, command."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch


def write_table(
    script: str, title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print a Markdown table and write it beside ``script``, under the same name with ``.md``."""
    git = shutil.which("git")
    arguments = [git or "git", "rev-parse", "--short", "HEAD"]
    commit = (
        subprocess.run(arguments, capture_output=True, text=True, check=False).stdout.strip() if git else "?"
    )
    source = (
        f"{platform.machine()}, {torch.get_num_threads()} torch thread(s), torch {torch.__version__}, commit {commit}, "
        f"{datetime.now(timezone.utc):%Y-%m-%d}, by `python benchmarks/{Path(script).name}`"
    )
    table = [header, ["---"] * len(header), *rows]
    lines = [f"# {title}", "", note, "", *(f"| {' | '.join(map(str, row))} |" for row in table), "", source]
    text = "\n".join(lines) + "\n"
    Path(script).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
