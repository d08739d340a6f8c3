"""A LangChain agent reads a user's chats with an assistant, and answers LongMemEval's question about them.

    python examples/longmemeval_agent.py [longmemeval_s.json] [codec] [reader] [judge]

The files are at https://github.com/xiaowu0162/LongMemEval; the first five histories are read here, ``nextmem evaluate
longmemeval`` reads all. Without a file, the conversation that ships with the package is put in LongMemEval's form, one
question at a time. ``reader`` is "extractive" (the default), "langchain:openai:gpt-4o-mini" or any other that
``nextmem evaluate longmemeval --help`` names. LongMemEval's score is a judge's, with its own prompts: ``judge`` is a
reader too, such as "langchain:openai:gpt-4o-2024-08-06"; without one, token F1 stands in its place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nextmem_agents.evaluation.judge import Judge
from nextmem_agents.evaluation.locomo import default_conversation, load_locomo
from nextmem_agents.evaluation.longmemeval import longmemeval_benchmark
from nextmem_agents.evaluation.readers.named import load_reader
from nextmem_agents.evaluation.study import Study

MEMORIES = ["nextmem", "none", "window", "bm25"]
KINDS = {1: "multi-session", 2: "temporal-reasoning", 4: "single-session-user"}


def packaged(folder: Path) -> Path:
    """The packaged conversation in LongMemEval's published form: one speaker is the user, the other the assistant."""
    [conversation] = load_locomo(default_conversation())
    sessions = [
        [
            {
                "role": "user" if turn.speaker == conversation.speakers[0] else "assistant",
                "content": turn.text,
            }
            for turn in session.turns
        ]
        for session in conversation.sessions
    ]
    of_turn = {turn.id: session.name for session in conversation.sessions for turn in session.turns}
    dates = [f"{session.date:%Y/%m/%d (%a) %H:%M}" for session in conversation.sessions]
    items = [
        {
            "question_id": f"harbour-{number}",
            "question_type": KINDS[question.category],
            "question": question.text,
            "answer": question.answer,
            "question_date": dates[-1],
            "haystack_session_ids": [session.name for session in conversation.sessions],
            "haystack_dates": dates,
            "haystack_sessions": sessions,
            "answer_session_ids": sorted({of_turn[turn] for turn in question.evidence}),
        }
        for number, question in enumerate(conversation.questions)
        if question.category in KINDS
    ]
    path = folder / "harbour.json"
    path.write_text(json.dumps(items[:2]), encoding="utf-8")
    return path


def main(
    data: str | None = None, codec: str = "mini-16", reader: str = "extractive", judge: str | None = None
) -> None:
    """Read, ask, and print the table."""
    with TemporaryDirectory() as folder:
        benchmark = longmemeval_benchmark(Path(data) if data else packaged(Path(folder))).cut(limit=5)
        study = Study(benchmark, codec, reader, max_tokens=1024, full_tokens=128_000)
        asked = Judge(load_reader(judge, study.codec)) if judge else None
        study.run(Path(folder) / "run", study.agents(MEMORIES), judge=asked, quiet=True)
        print(study.report(Path(folder) / "run", kept=False))


if __name__ == "__main__":
    main(*sys.argv[1:5])
