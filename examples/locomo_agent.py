"""A LangChain agent reads a long conversation and answers questions about it, beside the memories it competes with.

    python examples/locomo_agent.py [locomo10.json] [codec] [reader]

Without a file: the conversation that ships with the package. LoCoMo's own is ``data/locomo10.json`` of
https://github.com/snap-research/locomo (CC BY-NC 4.0); its first conversation is read here, ``nextmem evaluate locomo``
reads all. ``codec`` is "mini-16" or a checkpoint folder. ``reader`` is "extractive" (the default: the best-matching
sentence, a floor and no intelligence), "codec" (for a codec that can answer), "langchain:openai:gpt-4o-mini",
"transformers:FOLDER" or the address of an OpenAI-compatible server.

Each session is remembered as it comes, with who spoke, and when. Each question then goes through ``create_agent`` with
``NextMemMiddleware``; the other rows have the same agent and the same reader with another memory.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nextmem_agents.evaluation.benchmark import locomo_benchmark
from nextmem_agents.evaluation.locomo import default_conversation
from nextmem_agents.evaluation.study import Study

MEMORIES = ["nextmem", "none", "window", "bm25"]


def main(data: str | None = None, codec: str = "mini-16", reader: str = "extractive") -> None:
    """Read, ask, and print the table; where evidence was recalled, and what was replied to the first questions."""
    benchmark = locomo_benchmark(Path(data) if data else default_conversation()).cut(limit=1)
    study = Study(benchmark, codec, reader, framework="langchain")
    with TemporaryDirectory() as folder:
        study.run(Path(folder), study.agents(MEMORIES), quiet=True)
        print(study.report(Path(folder), kept=False))
        print()
        for answer in study.answers(Path(folder), "nextmem")[:5]:
            print(f"{answer['category']}: {answer['question']}\n  -> {answer['reply']}")
            found = [turn for turn in answer["recalled"] if turn in answer["evidence"]]
            print(f"  evidence {', '.join(answer['evidence'])}; recalled of it: {', '.join(found) or 'none'}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
