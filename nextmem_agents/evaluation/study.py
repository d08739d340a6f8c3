"""One evaluation: a benchmark, a reader, and the memories that are compared under it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, get_args

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import CannotAnswer, DataError, InvalidArgument, MissingExtra
from nextmem_agents.evaluation.agents.agent import Agent, Framework, Latent
from nextmem_agents.evaluation.answer_report import as_json, as_markdown, cells, commits_of, origin, rows_of
from nextmem_agents.evaluation.answering import answer_all, answers_of, judge_all
from nextmem_agents.evaluation.benchmark import Benchmark, History
from nextmem_agents.evaluation.judge import Judge
from nextmem_agents.evaluation.memories.embedding import Embedder, load_embedder
from nextmem_agents.evaluation.memories.memory import TextMemory
from nextmem_agents.evaluation.memories.named import (
    LANGCHAIN_VECTORS,
    LLAMA_INDEX_VECTORS,
    TEXT_MEMORIES,
    TextSettings,
    make_text_memory,
)
from nextmem_agents.evaluation.readers.codec import CodecReader
from nextmem_agents.evaluation.readers.named import load_reader
from nextmem_agents.evaluation.readers.reader import Reader
from nextmem_agents.evaluation.run_folder import Record, RunFolder, open_run, replace
from nextmem_agents.evaluation.table import rendered
from nextmem_agents.memory import NextMem
from nextmem_agents.recall.budget import TokenCounter, token_counter
from nextmem_agents.recall.policy import MODES

NEXTMEM = "nextmem"
RESULTS_JSON, RESULTS_MARKDOWN = "results.json", "results.md"
MakeAgent = Callable[[History, NextMem], Agent]


class Study:
    """Compares memories on a benchmark.

    Args:
        benchmark: what is read and asked.
        codec: of the latent memory, by name or folder.
        reader: who answers, by name; see :func:`nextmem_agents.evaluation.readers.named.load_reader`.
        reader_options: of the reader.
        k: memories recalled for a question.
        max_tokens: budget of recalled text.
        full_tokens: budget of the full context.
        framework: whose agents.
        embedder: of the vector memories, by name.

    Raises:
        InvalidArgument: an unknown framework or reader, or no question.
        NextMemError: what loading the codec or the reader raises.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        codec: str | LatentCodec,
        reader: str | Reader,
        reader_options: Mapping[str, Any] | None = None,
        k: int = 5,
        max_tokens: int = 512,
        full_tokens: int = 32_000,
        framework: str = "langchain",
        embedder: str = "hash",
    ):
        if framework not in get_args(Framework):
            raise InvalidArgument(
                f"there is no framework {framework!r}; give {' or '.join(get_args(Framework))}"
            )
        if not benchmark.n_queries:
            raise DataError(f"{benchmark.source} holds no question to ask")
        self.benchmark = benchmark
        self.codec = LatentCodec.load(codec) if isinstance(codec, str) else codec
        self.reader = load_reader(reader, self.codec, reader_options) if isinstance(reader, str) else reader
        own = TokenCounter(f"codec:{self.codec.config.name}", self.codec.count_tokens)
        # Latents and text are added up: one way of counting for both.
        self.count = own if isinstance(self.reader, CodecReader) else token_counter(None, own)
        self.framework = framework
        self.loop = f"{'a LangChain' if framework == 'langchain' else 'a LlamaIndex'} agent"
        self.memories: tuple[str, ...] = ()
        self._k, self._max_tokens, self._full_tokens = k, max_tokens, full_tokens
        self._embedder_name = embedder
        self._judge: Judge | None = None
        self._embedder: Callable[[], Embedder] = lru_cache(lambda: load_embedder(embedder))

    def settings(self) -> dict[str, Any]:
        """What changes outputs; the memories are no part of it, so that more of them can be added to a run."""
        return {
            "benchmark": self.benchmark.name,
            "sha256": self.benchmark.sha256,
            "loop": self.loop,
            "reader": self.reader.settings(),
            "codec": {"name": self.codec.config.name, "fingerprint": self.codec.fingerprint},
            "k": self._k,
            "max_tokens": self._max_tokens,
            "full_tokens": self._full_tokens,
            "counter": self.count.source,
            "embedder": self._embedder_name,
        }

    def default_memories(self) -> list[str]:
        """Latent memory in every mode that the reader can take, and all controls that this machine can run."""
        modes = [NEXTMEM]
        if isinstance(self.reader, CodecReader):
            modes = [f"{NEXTMEM}:{mode}" for mode in self._modes() if mode != "auto"]
        there = {
            LANGCHAIN_VECTORS: importlib.util.find_spec("langchain_classic") is not None,
            LLAMA_INDEX_VECTORS: importlib.util.find_spec("llama_index") is not None,
        }
        return [*modes, *(name for name in TEXT_MEMORIES if there.get(name, True))]

    def agents(self, names: Sequence[str]) -> dict[str, MakeAgent]:
        """What makes the agents, by the names of their memories.

        Raises:
            CannotAnswer: latents for a reader that cannot take them.
            InvalidArgument: an unknown memory or mode.
            MissingExtra: a framework or an embedder is not installed.
        """
        return {name: self._maker(name) for name in dict.fromkeys(names)}

    def run(
        self,
        path: Path,
        agents: Mapping[str, MakeAgent],
        *,
        judge: Judge | None = None,
        keep_prompts: bool = False,
        quiet: bool = False,
    ) -> None:
        """Ask everything that has not been answered in a run's folder, with progress on standard error.

        Raises:
            DataError: the folder holds a run with other settings, or another process is writing to it.
            ReaderError: the reader or the judge gave no reply; the same call goes on from there.
        """
        from rich.console import Console
        from rich.progress import Progress

        self.memories, self._judge = tuple(agents), judge
        with (
            open_run(path, self.settings()) as folder,
            NextMem.open(folder.store, codec=self.codec) as memory,
            Progress(console=Console(stderr=True), disable=quiet) as progress,
        ):
            total = self.benchmark.n_queries * len(agents)
            task = progress.add_task("Answering", total=total)
            bound = {name: partial(_make, make, memory) for name, make in agents.items()}
            where = origin()
            stamp = {"commit": where.commit, "date": where.date}
            answer_all(
                self.benchmark, bound, folder, lambda n: progress.advance(task, n), keep_prompts, stamp
            )
            if judge is not None:
                task = progress.add_task("Judging", total=total)
                judge_all(self.benchmark, folder, judge, lambda n: progress.advance(task, n))

    def report(self, path: Path, markdown: Path | None = None, json: bool = False, kept: bool = True) -> str:
        """Write ``results.json``, ``results.md`` and figures into a run's folder; returns the table, or the JSON.

        Args:
            path: the run's folder.
            markdown: write the page here, too.
            json: return JSON.
            kept: the folder stays; figures are drawn for one that does, where matplotlib is installed.
        """
        with open_run(path, self.settings()) as folder:
            rows = rows_of(self.benchmark, folder, self._memories_in(folder), self._judge)
            where, settings = origin(commits_of(folder)), self.settings()
        data = as_json(self.benchmark, rows, settings, self._judge, where)
        page = as_markdown(self.benchmark, rows, settings, self._judge, where)
        replace(path / RESULTS_JSON, data)
        replace(path / RESULTS_MARKDOWN, page)
        if markdown is not None:
            try:
                markdown.parent.mkdir(parents=True, exist_ok=True)
                replace(markdown, page)
            except OSError as error:
                raise DataError(f"{markdown} cannot be written: {error}") from error
        if kept and importlib.util.find_spec("matplotlib") is not None:
            from nextmem_agents.evaluation.answer_plots import plot_answers

            plot_answers(rows, self.benchmark, path)
        return data if json else rendered([cells(row, self.benchmark) for row in rows])

    def answers(self, path: Path, memory: str) -> list[Record]:
        """The raw outputs of one memory in a run's folder."""
        with open_run(path, self.settings()) as folder:
            return [record for record in answers_of(folder, self.benchmark) if record["memory"] == memory]

    def _memories_in(self, folder: RunFolder) -> list[str]:
        """Those of this call, then those of earlier ones."""
        return list(dict.fromkeys([*self.memories, *(r["memory"] for r in folder.records)]))

    def _maker(self, name: str) -> MakeAgent:
        kind, _, mode = name.partition(":")
        if kind == NEXTMEM:
            if mode and mode not in self._modes():
                raise InvalidArgument(
                    f"there is no mode {mode!r} for agents of {self.framework}; modes are {', '.join(self._modes())}"
                )
            if mode in ("inject", "mixed") and not isinstance(self.reader, CodecReader):
                raise CannotAnswer(f"{self.reader.name} cannot be given latents; {name} needs --reader codec")
        elif name not in TEXT_MEMORIES:
            raise InvalidArgument(
                f"there is no memory {name!r}; memories are {NEXTMEM}, {NEXTMEM}:MODE, {', '.join(TEXT_MEMORIES)}"
            )
        if name in (LANGCHAIN_VECTORS, LLAMA_INDEX_VECTORS, "embedding"):
            self._embedder()  # a missing package is found now, and not after an hour
        build = self._framework_agent()
        settings = TextSettings(self._k, self._max_tokens, self._full_tokens, self.count, self._embedder)

        def make(history: History, memory: NextMem) -> Agent:
            held: Latent | TextMemory
            if kind == NEXTMEM:
                held = Latent(memory.scope(history.id), mode or "auto", self._k, self._max_tokens)  # type: ignore[arg-type]
            else:
                held = make_text_memory(name, settings)
            return build(held, self.reader, self.count)

        return make

    def _modes(self) -> tuple[str, ...]:
        """LlamaIndex's memory block gives all as text or all as latents."""
        return tuple(mode for mode in MODES if mode != "mixed" or self.framework == "langchain")

    def _framework_agent(self) -> Callable[[Latent | TextMemory, Reader, Callable[[str], int]], Agent]:
        try:
            if self.framework == "langchain":
                from nextmem_agents.evaluation.agents.in_langchain import LangChainAgent

                return LangChainAgent
            from nextmem_agents.evaluation.agents.in_llama_index import LlamaIndexAgent

            return LlamaIndexAgent
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f'agents of {self.framework} need it: pip install "nextmem-agents[{self.framework}]" ({error})'
            ) from error


def _make(make: MakeAgent, memory: NextMem, history: History) -> Agent:
    return make(history, memory)
