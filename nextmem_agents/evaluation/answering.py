"""The loop that all question answering shares: read each history, ask its questions, write down every reply."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nextmem_agents.evaluation.agents.agent import Agent, Asked
from nextmem_agents.evaluation.benchmark import Benchmark, History, Query
from nextmem_agents.evaluation.judge import Judge
from nextmem_agents.evaluation.metrics import evidence_recall
from nextmem_agents.evaluation.run_folder import Record, RunFolder

READ, ANSWER, VERDICT = "read", "answer", "verdict"
MakeAgent = Callable[[History], Agent]


def answer_all(
    benchmark: Benchmark,
    agents: Mapping[str, MakeAgent],
    folder: RunFolder,
    done: Callable[[int], None] = lambda _: None,
    keep_prompts: bool = False,
    stamp: Mapping[str, Any] | None = None,
) -> None:
    """Ask every question of every agent that has not answered it yet.

    Args:
        benchmark: what is read and asked.
        agents: makes an agent for a history, by the name of its memory.
        folder: where outputs go, and where those of an interrupted run are.
        done: called with the number of questions that were answered, also with those found answered.
        keep_prompts: write down prompts whole; without it, their hash alone.
        stamp: written down with each history that is read: what the answers after it come from.

    Raises:
        ReaderError: a reader gave no reply; what was answered is kept, and the same call goes on from there.
    """
    known = {(r["memory"], r["id"]) for r in folder.records if r["kind"] == ANSWER}
    for name, make in agents.items():
        for history in benchmark.histories:
            pending = [query for query in history.queries if (name, query.id) not in known]
            done(len(history.queries) - len(pending))
            if not pending:
                continue
            agent = make(history)
            started, cpu = time.perf_counter(), time.process_time()
            for session in history.sessions:
                agent.read(session)
            folder.append(
                {
                    "kind": READ,
                    "memory": name,
                    "history": history.id,
                    "turns": sum(len(session.turns) for session in history.sessions),
                    "seconds": time.perf_counter() - started,
                    "cpu_seconds": time.process_time() - cpu,
                    **(stamp or {}),
                }
            )
            for query in pending:
                cpu = time.process_time()
                asked = agent.ask(query.text, query.asked_at)
                spent = time.process_time() - cpu
                folder.append(
                    _answer(benchmark, name, history, query, asked, keep_prompts) | {"cpu_seconds": spent}
                )
                done(1)


def judge_all(
    benchmark: Benchmark, folder: RunFolder, judge: Judge, done: Callable[[int], None] = lambda _: None
) -> None:
    """Have every reply judged that this judge has not judged yet.

    Raises:
        ReaderError: the judge gave no reply; the same call goes on from there.
    """
    queries = {query.id: query for history in benchmark.histories for query in history.queries}
    name, prompts = judge.reader.name, judge.settings()["prompts_sha256"]
    known = {
        (r["memory"], r["id"])
        for r in folder.records
        if r["kind"] == VERDICT and r["judge"] == name and r["prompts_sha256"] == prompts
    }
    for record in [r for r in folder.records if r["kind"] == ANSWER and r["id"] in queries]:
        if (record["memory"], record["id"]) not in known:
            verdict = judge.verdict(queries[record["id"]], record["reply"])
            folder.append(
                {
                    "kind": VERDICT,
                    "memory": record["memory"],
                    "id": record["id"],
                    "prompts_sha256": prompts,
                    **verdict,
                }
            )
        done(1)


def _answer(
    benchmark: Benchmark, name: str, history: History, query: Query, asked: Asked, keep_prompts: bool
) -> Record:
    found = _evidence(benchmark, history, asked.recalled)
    return {
        "kind": ANSWER,
        "memory": name,
        "id": query.id,
        "category": query.category,
        "question": query.text,
        "answers": list(query.answers),
        "reply": asked.reply,
        "score": benchmark.score(query, asked.reply),
        "evidence": list(query.evidence),
        "evidence_recall": evidence_recall(found, query.evidence) if query.evidence else None,
        # All turns of a full context would fill the disk; which they were is known.
        "recalled": list(asked.recalled[:50]),
        "n_recalled": len(asked.recalled),
        "text_tokens": asked.text_tokens,
        "latent_positions": asked.latent_positions,
        "seconds": asked.seconds,
        "memory_seconds": asked.memory_seconds,
        "reader_seconds": asked.reader_seconds,
        "prompt_sha256": hashlib.sha256(asked.prompt.encode("utf-8", "surrogatepass")).hexdigest(),
        **({"prompt": asked.prompt} if keep_prompts else {}),
    }


def _evidence(benchmark: Benchmark, history: History, recalled: Sequence[str]) -> list[str]:
    """What a query's evidence names, of the turns that were recalled."""
    if benchmark.evidence_of == "turn":
        return list(recalled)
    session_of = {turn.id: session.name for session in history.sessions for turn in session.turns}
    return list(dict.fromkeys(session_of[turn] for turn in recalled))


def answers_of(folder: RunFolder, benchmark: Benchmark) -> list[Record]:
    """The answers to a benchmark's questions among a folder's outputs."""
    asked = {query.id for history in benchmark.histories for query in history.queries}
    return [record for record in folder.records if record["kind"] == ANSWER and record["id"] in asked]


def verdicts_of(folder: RunFolder, judge: Judge | None) -> dict[tuple[str, str], bool]:
    """This judge's verdicts, by memory and question."""
    if judge is None:
        return {}
    settings: Mapping[str, Any] = judge.settings()
    return {
        (r["memory"], r["id"]): bool(r["right"])
        for r in folder.records
        if r["kind"] == VERDICT
        and r["judge"] == judge.reader.name
        and r["prompts_sha256"] == settings["prompts_sha256"]
    }
