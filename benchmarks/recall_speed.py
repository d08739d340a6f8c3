"""How long a recall takes beside the encoding of its question: python benchmarks/recall_speed.py [locomo10.json]

Prints a Markdown table; both are measured in one run, question by question in turn, on one thread.
"""

from __future__ import annotations

import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.evaluation.benchmark import locomo_benchmark
from nextmem_agents.evaluation.haystacks import conversations
from nextmem_agents.evaluation.locomo import default_conversation
from nextmem_agents.evaluation.retrieval import remember

QUESTIONS = 50


def main() -> None:
    """Measure the first conversation of a LoCoMo file; by default the packaged one."""
    torch.set_num_threads(1)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default_conversation()
    haystack = conversations(locomo_benchmark(path))[0]
    codec = LatentCodec.load()
    times: dict[str, list[float]] = {"encoding the question": [], "lexical": [], "hybrid": [], "latent": []}
    with NextMem.open(":memory:", codec=codec) as memory:
        scope = memory.scope(haystack.name)
        remember(scope, haystack)
        texts = [query.text for query in haystack.queries][:QUESTIONS]
        scope.recall(texts[0])  # what is read on first use
        for text in texts:
            for name, seconds in times.items():
                # The processor's time, so that other work on the machine does not count.
                started = time.process_time()
                if name == "encoding the question":
                    codec.encode(codec.chunk(text))
                elif name == "lexical":
                    scope.recall(text, 10, ranking="lexical")
                elif name == "latent":
                    scope.recall(text, 10, ranking="latent")
                else:
                    scope.recall(text, 10)
                seconds.append(time.process_time() - started)
    encoding = statistics.median(times["encoding the question"])
    print(f"{haystack.name}, {len(haystack.items)} memories, {len(texts)} questions, {date.today()}\n")
    print("| what | ms (median, CPU) | x encoding |\n| --- | --- | --- |")
    for name, seconds in times.items():
        print(
            f"| {name} | {1000 * statistics.median(seconds):.1f} | {statistics.median(seconds) / encoding:.2f} |"
        )


if __name__ == "__main__":
    main()
