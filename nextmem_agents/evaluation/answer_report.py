"""What a run of question answering found: a row for each memory, as JSON, as Markdown, with where it came from."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from nextmem_agents.evaluation.answering import READ, answers_of, verdicts_of
from nextmem_agents.evaluation.benchmark import Benchmark
from nextmem_agents.evaluation.judge import Judge
from nextmem_agents.evaluation.run_folder import Record, RunFolder
from nextmem_agents.evaluation.table import rendered

CONTROL = "none"
_SAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """One memory's means over the questions that count.

    Attributes:
        memory: its name.
        questions: how many were answered, those that are reported apart among them.
        score: over all categories that are not reported apart; see ``Benchmark.metric``.
        categories: of each category, those apart too.
        over_none: how much more than without memory, question by question, with the bounds of its 95 % interval
            (bootstrap over questions); None for that control itself, or without it.
        evidence_recall: share of the evidence among what was recalled, where a question has evidence.
        evidence_hit: share of these questions with any evidence recalled (``recall_any``).
        judged: share that the judge found right, categories apart left out; None without a judge.
        judged_apart: of the categories apart.
        text_tokens, latent_positions: of memory in the prompt, per question.
        memory_ms: of a question, all but the reader.
        reader_ms: the reader.
        read_ms: to take in one turn.
        minutes: the whole of it, reading and asking.
        cpu_minutes: of processor time, which does not depend on what else the machine did.
    """

    memory: str
    questions: int
    score: float
    categories: dict[str, float]
    over_none: tuple[float, float, float] | None
    evidence_recall: float | None
    evidence_hit: float | None
    judged: float | None
    judged_apart: float | None
    text_tokens: float
    latent_positions: float
    memory_ms: float
    reader_ms: float
    read_ms: float | None
    minutes: float
    cpu_minutes: float


def rows_of(
    benchmark: Benchmark, folder: RunFolder, memories: Sequence[str], judge: Judge | None = None
) -> list[Row]:
    """A row for each memory that has answered anything."""
    verdicts = verdicts_of(folder, judge)
    by_memory: dict[str, list[Record]] = {}
    for record in answers_of(folder, benchmark):
        by_memory.setdefault(record["memory"], []).append(record)
    control = {
        r["id"]: r["score"] for r in by_memory.get(CONTROL, []) if r["category"] not in benchmark.apart
    }
    histories = {history.id for history in benchmark.histories}
    rows = []
    for name in memories:
        if not (answers := by_memory.get(name)):
            continue
        counted = [r for r in answers if r["category"] not in benchmark.apart]
        found = [r["evidence_recall"] for r in counted if r["evidence_recall"] is not None]
        reads = [
            r
            for r in folder.records
            if r["kind"] == READ and r["memory"] == name and r["history"] in histories
        ]
        judged = [verdicts[name, r["id"]] for r in counted if (name, r["id"]) in verdicts]
        apart = [
            verdicts[name, r["id"]]
            for r in answers
            if r["category"] in benchmark.apart and (name, r["id"]) in verdicts
        ]
        rows.append(
            Row(
                memory=name,
                questions=len(answers),
                score=_mean([r["score"] for r in counted]),
                categories={
                    category: _mean([r["score"] for r in answers if r["category"] == category])
                    for category in benchmark.categories
                },
                over_none=None if name == CONTROL else _over(counted, control),
                evidence_recall=mean(found) if found else None,
                evidence_hit=mean(float(bool(share)) for share in found) if found else None,
                judged=mean(map(float, judged)) if judged else None,
                judged_apart=mean(map(float, apart)) if apart else None,
                text_tokens=_mean([r["text_tokens"] for r in answers]),
                latent_positions=_mean([r["latent_positions"] for r in answers]),
                memory_ms=1000 * _mean([r["memory_seconds"] for r in answers]),
                reader_ms=1000 * _mean([r["reader_seconds"] for r in answers]),
                read_ms=_read_ms(reads),
                minutes=sum(r["seconds"] for r in [*answers, *reads]) / 60,
                cpu_minutes=sum(r["cpu_seconds"] for r in [*answers, *reads]) / 60,
            )
        )
    return rows


def _read_ms(reads: Sequence[Record]) -> float | None:
    """Of those that took in anything: a run that goes on finds its store read."""
    longest: dict[str, Record] = {}
    for record in reads:
        if record["seconds"] > longest.get(record["history"], {"seconds": -1.0})["seconds"]:
            longest[record["history"]] = record
    turns = sum(record["turns"] for record in longest.values())
    return 1000 * sum(record["seconds"] for record in longest.values()) / turns if turns else None


def _over(answers: Sequence[Record], control: Mapping[str, float]) -> tuple[float, float, float] | None:
    differences = np.array([r["score"] - control[r["id"]] for r in answers if r["id"] in control])
    if not len(differences):
        return None
    rng = np.random.default_rng(0)
    drawn = rng.choice(differences, (_SAMPLES, len(differences))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    return mean(map(float, values)) if values else 0.0


def cells(row: Row, benchmark: Benchmark) -> dict[str, object]:
    """A row as a table shows it: the official score by category first, then what it was made from."""
    inside = {name: score for name, score in row.categories.items() if name not in benchmark.apart}
    apart = {f"{name} (apart)": score for name, score in row.categories.items() if name in benchmark.apart}
    judged = {"judged right": row.judged, "judged, apart": row.judged_apart if apart else None}
    return {
        "memory": row.memory,
        benchmark.metric: _round(row.score),
        **({name: _round(score) for name, score in inside.items()} if len(inside) > 1 else {}),
        **{name: _round(score) for name, score in apart.items()},
        **({name: _round(share) for name, share in judged.items()} if row.judged is not None else {}),
        "evidence recall": _round(row.evidence_recall),
        "evidence hit": _round(row.evidence_hit),
        "tokens of text": round(row.text_tokens),
        "latents": round(row.latent_positions),
        "memory ms": round(row.memory_ms),
        "reader ms": round(row.reader_ms),
        "minutes": f"{row.minutes:.1f}",
        "CPU minutes": f"{row.cpu_minutes:.1f}",
    }


def _round(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


@dataclass(frozen=True)
class Origin:
    """Where figures come from.

    Attributes:
        command: that wrote them.
        commit: of the working tree that answered, with ``+changes`` where it differed from the commit; several where a
            run was gone on with.
        date: of writing, UTC.
        machine: what it ran on.
    """

    command: str
    commit: str
    date: str
    machine: str


def commits_of(folder: RunFolder) -> list[str]:
    """What the answers in a run's folder come from."""
    return list(dict.fromkeys(r["commit"] for r in folder.records if r["kind"] == READ and "commit" in r))


def origin(commits: Sequence[str] = ()) -> Origin:
    """Of the present process, or of what earlier ones answered."""
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return Origin(
        command=_command(),
        commit=", ".join(commits) or _commit(),
        date=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        machine=f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}{load}",
    )


def _command() -> str:
    program = Path(sys.argv[0])
    called = ["nextmem"] if program.stem == "nextmem" else ["python", str(program)]
    return shlex.join([*called, *sys.argv[1:]])


def _commit() -> str:
    git, tree = shutil.which("git"), Path(__file__).parents[2]
    if git is None or not (tree / ".git").exists():
        from nextmem_agents import __version__

        return f"version {__version__}"

    def asked(*words: str) -> str:
        told = subprocess.run(  # noqa: S603 - git, with words of our own
            [git, "-C", str(tree), *words], capture_output=True, text=True, check=False
        )
        return told.stdout.strip()

    changed = asked("status", "--porcelain", "--untracked-files=no", "--", "nextmem_agents", "integrations")
    return (asked("rev-parse", "--short", "HEAD") or "unknown") + ("+changes" if changed else "")


def as_json(
    benchmark: Benchmark, rows: Sequence[Row], settings: Mapping[str, Any], judge: Judge | None, where: Origin
) -> str:
    """Everything, for programs."""
    found = {
        "benchmark": benchmark.name,
        "file": benchmark.source,
        "sha256": benchmark.sha256,
        "metric": benchmark.metric,
        "histories": [history.id for history in benchmark.histories],
        "questions": benchmark.n_queries,
        "settings": dict(settings),
        "judge": None if judge is None else judge.settings(),
        "origin": asdict(where),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def as_markdown(
    benchmark: Benchmark, rows: Sequence[Row], settings: Mapping[str, Any], judge: Judge | None, where: Origin
) -> str:
    """A page with the table, how it was made, and what its columns say."""
    n = len(benchmark.histories)
    counts = {
        category: sum(q.category == category for h in benchmark.histories for q in h.queries)
        for category in benchmark.categories
    }
    asked = ", ".join(f"{category} {count}" for category, count in counts.items())
    lines = [
        f"# {benchmark.name}: {settings.get('loop', 'questions')}, answered by {settings['reader']['reader']}",
        "",
        f"`{where.command}`",
        "",
        f"Commit {where.commit}, {where.date}; {where.machine}. File `{benchmark.source}` (SHA-256 "
        f"`{benchmark.sha256[:16]}…`), {n} {'history' if n == 1 else 'histories'} of {_range(benchmark)} sessions, "
        f"{benchmark.n_queries} questions "
        f"({asked}). Codec `{settings['codec']['name']}` ({settings['codec']['fingerprint'][:12]}); k = "
        f"{settings['k']}, at most {settings['max_tokens']} tokens of recalled text, {settings['full_tokens']} of full "
        f"context, counted by {settings['counter']}; embedder of the vector memories: {settings['embedder']}.",
        "",
        rendered([cells(row, benchmark) for row in rows]),
        "",
    ]
    lines += [f"- {text}" for text in _notes(benchmark, rows, judge)]
    return "\n".join(lines) + "\n"


def _range(benchmark: Benchmark) -> str:
    """How many sessions the histories have: a haystack and its evidence alone are not the same task."""
    counts = sorted(len(history.sessions) for history in benchmark.histories)
    return str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"


def _notes(benchmark: Benchmark, rows: Sequence[Row], judge: Judge | None) -> list[str]:
    apart = ", ".join(sorted(benchmark.apart & set(benchmark.categories)))
    notes = [
        f"`{benchmark.metric}` is the mean over all questions"
        + (f" but those of {apart}, where only a refusal counts: they stand apart." if apart else "."),
        f"Evidence: share of the {benchmark.evidence_of}s that hold the answer among those recalled, and share of "
        "questions with any of them, over the questions that name evidence.",
        "Tokens and latents: of memory in the prompt, per question. `memory ms`: recall, decoding, rendering and the "
        "framework, per question; minutes: reading the histories and asking everything, by the clock and of processor.",
    ]
    better = [
        f"{row.memory} {row.over_none[0]:+.3f} [{row.over_none[1]:+.3f}, {row.over_none[2]:+.3f}]"
        for row in rows
        if row.over_none is not None
    ]
    if better:
        notes.append(f"Over no memory, question by question, 95 % of a bootstrap: {'; '.join(better)}.")
    if judge is not None:
        described = judge.settings()
        notes.append(f"Judge: {described['reader']}, prompts SHA-256 `{described['prompts_sha256'][:16]}…`.")
    return notes
