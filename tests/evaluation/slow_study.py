"""A study that takes its time, to be killed: ``python -m tests.evaluation.slow_study DATA CODEC RUN``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from nextmem_agents import LatentCodec
from nextmem_agents.evaluation.benchmark import locomo_benchmark
from nextmem_agents.evaluation.readers.extractive import ExtractiveReader
from nextmem_agents.evaluation.study import Study

MEMORIES = ["nextmem", "none"]


class Slow(ExtractiveReader):
    """Thinks before it quotes."""

    def reply(self, prompt: str, system: str | None = None) -> str:
        time.sleep(0.2)
        return super().reply(prompt, system)


def study_of(data: Path, codec: LatentCodec, reader: ExtractiveReader | None = None) -> Study:
    """A latent memory and none, on a file."""
    return Study(locomo_benchmark(data), codec, reader or ExtractiveReader(), k=2, max_tokens=100)


def main(data: str, codec: str, run: str) -> None:
    """Ask, slowly."""
    study = study_of(Path(data), LatentCodec.load(codec), Slow())
    study.run(Path(run), study.agents(MEMORIES), quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
