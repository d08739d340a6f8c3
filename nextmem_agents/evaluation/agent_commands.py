"""``nextmem evaluate qa``, ``locomo`` and ``longmemeval``: arguments to a run, a run to a table, a page and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.errors import InvalidArgument

Data = Annotated[
    Path | None,
    typer.Argument(help="The benchmark's file (.json, .json.xz); by default the packaged conversation."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the run: settings, raw outputs, results. The same command goes on where it ended."
    ),
]
ReaderName = Annotated[
    str,
    typer.Option(
        "--reader",
        help="extractive, codec, transformers:FOLDER, langchain:PROVIDER:MODEL, or langchain: or llama-index: "
        "followed by MODULE:CLASS, or http://HOST:PORT/v1.",
    ),
]
ReaderOptions = Annotated[
    str | None,
    typer.Option(help='JSON, such as \'{"model": "gpt-4o-mini"}\'; keys stand in the environment.'),
]
JudgeName = Annotated[
    str | None, typer.Option("--judge", help="A reader, as above, that judges every reply.")
]
Codec = Annotated[str, typer.Option(help="A shipped codec's name or a checkpoint folder.")]
K = Annotated[int, typer.Option("--k", min=1, help="Memories recalled for a question.")]
MaxTokens = Annotated[int, typer.Option(min=16, help="Budget of recalled text in the prompt.")]
Histories = Annotated[
    str | None, typer.Option("--conversations", help="Their ids, with commas between them; by default all.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many conversations, the first ones.")]
Questions = Annotated[
    int | None, typer.Option(min=1, help="At most so many questions of each conversation, spread evenly.")
]
Prompts = Annotated[bool, typer.Option("--prompts", help="Keep every prompt whole among the raw outputs.")]
Markdown = Annotated[Path | None, typer.Option(help="Write the page with the table here too.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a Markdown table.")]
Frameworks = Annotated[str, typer.Option("--framework", help="Whose agent: langchain or llama-index.")]
Memories = Annotated[
    str | None,
    typer.Option(
        help="nextmem, nextmem:decompress, nextmem:inject, nextmem:mixed, none, window, full, bm25, embedding, "
        "langchain-vectors, llama-index-vectors, with commas between them; by default nextmem and all its controls."
    ),
]
FullTokens = Annotated[int, typer.Option(min=16, help="Budget of the full context; the latest turns stay.")]
EmbedderName = Annotated[
    str,
    typer.Option(
        "--embedder", help="Of the vector memories: hash, minilm, sentence-transformers:NAME or a folder."
    ),
]


def qa(
    data: Data = None,
    ways: Annotated[
        str | None,
        typer.Option(help="none, text, decompress, inject, mixed; by default all that the reader can take."),
    ] = None,
    reader: ReaderName = "extractive",
    reader_options: ReaderOptions = None,
    codec: Codec = DEFAULT_CODEC,
    k: K = 5,
    max_tokens: MaxTokens = 512,
    conversations: Histories = None,
    limit: Limit = None,
    questions: Questions = None,
    judge: JudgeName = None,
    judge_options: ReaderOptions = None,
    output: Output = None,
    markdown: Markdown = None,
    prompts: Prompts = False,
    as_json: Json = False,
) -> None:
    """Answer questions from the same recalled memories as text, decompressed, injected, mixed, and from nothing.

    DATA is a LoCoMo, LongMemEval, SQuAD or HotpotQA file. One reader answers in every way, from the same hits.
    """
    from nextmem_agents.evaluation.agents.agent import Latent
    from nextmem_agents.evaluation.direct import DirectReading, Recalls, check_way, ways_for
    from nextmem_agents.evaluation.passages import load_benchmark
    from nextmem_agents.evaluation.study import Study

    benchmark = load_benchmark(_data(data)).cut(_names(conversations), limit, questions)
    study = Study(benchmark, codec, reader, _options("--reader-options", reader_options), k, max_tokens)
    chosen = tuple(_names(ways) or ways_for(study.reader))
    for way in chosen:
        check_way(way, study.reader)
    recalls = Recalls()
    study.loop = "the same hits in every way"
    with _folder(output) as folder:
        study.run(
            folder,
            {
                way: lambda history, memory, way=way: DirectReading(  # type: ignore[misc]
                    way,
                    Latent(memory.scope(history.id), "decompress", k, max_tokens),
                    history,
                    study.reader,
                    study.count,
                    recalls,
                )
                for way in chosen
            },
            judge=_judge(judge, judge_options, study.codec),
            keep_prompts=prompts,
        )
        typer.echo(study.report(folder, markdown, as_json, kept=output is not None))


def locomo(
    data: Data = None,
    framework: Frameworks = "langchain",
    memories: Memories = None,
    reader: ReaderName = "extractive",
    reader_options: ReaderOptions = None,
    codec: Codec = DEFAULT_CODEC,
    k: K = 5,
    max_tokens: MaxTokens = 512,
    full_tokens: FullTokens = 32_000,
    embedder: EmbedderName = "hash",
    conversations: Histories = None,
    limit: Limit = None,
    questions: Questions = None,
    judge: JudgeName = None,
    judge_options: ReaderOptions = None,
    output: Output = None,
    markdown: Markdown = None,
    prompts: Prompts = False,
    as_json: Json = False,
) -> None:
    """Let an agent read LoCoMo conversations session by session, then answer their questions.

    LoCoMo's file is data/locomo10.json of https://github.com/snap-research/locomo.
    """
    from nextmem_agents.evaluation.benchmark import locomo_benchmark

    benchmark = locomo_benchmark(_data(data)).cut(_names(conversations), limit, questions)
    _agents(
        benchmark, framework, memories, reader, reader_options, codec, k, max_tokens, full_tokens, embedder,
        judge, judge_options, output, markdown, prompts, as_json,
    )  # fmt: skip


def longmemeval(
    data: Annotated[
        Path, typer.Argument(help="longmemeval_s.json, longmemeval_oracle.json, or in their form (.xz).")
    ],
    framework: Frameworks = "langchain",
    memories: Memories = None,
    reader: ReaderName = "extractive",
    reader_options: ReaderOptions = None,
    codec: Codec = DEFAULT_CODEC,
    k: K = 5,
    max_tokens: MaxTokens = 1024,
    full_tokens: FullTokens = 128_000,
    embedder: EmbedderName = "hash",
    conversations: Histories = None,
    limit: Limit = None,
    judge: JudgeName = None,
    judge_options: ReaderOptions = None,
    output: Output = None,
    markdown: Markdown = None,
    prompts: Prompts = False,
    as_json: Json = False,
) -> None:
    """Let an agent read LongMemEval histories session by session, then answer the question of each.

    The files are at https://github.com/xiaowu0162/LongMemEval. Its official score is a judge's: give --judge.
    """
    from nextmem_agents.evaluation.longmemeval import longmemeval_benchmark

    benchmark = longmemeval_benchmark(data).cut(_names(conversations), limit)
    _agents(
        benchmark, framework, memories, reader, reader_options, codec, k, max_tokens, full_tokens, embedder,
        judge, judge_options, output, markdown, prompts, as_json,
    )  # fmt: skip


def _agents(
    benchmark: Any,
    framework: str,
    memories: str | None,
    reader: str,
    reader_options: str | None,
    codec: str,
    k: int,
    max_tokens: int,
    full_tokens: int,
    embedder: str,
    judge: str | None,
    judge_options: str | None,
    output: Path | None,
    markdown: Path | None,
    prompts: bool,
    as_json: bool,
) -> None:
    from nextmem_agents.evaluation.study import Study

    given = _options("--reader-options", reader_options)
    study = Study(benchmark, codec, reader, given, k, max_tokens, full_tokens, framework, embedder)
    names = _names(memories) or study.default_memories()
    agents = study.agents(names)
    with _folder(output) as folder:
        study.run(folder, agents, judge=_judge(judge, judge_options, study.codec), keep_prompts=prompts)
        typer.echo(study.report(folder, markdown, as_json, kept=output is not None))


def _data(path: Path | None) -> Path:
    from nextmem_agents.evaluation.locomo import default_conversation

    return path or default_conversation()


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def _options(option: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{option} takes a JSON object, not {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgument(f"{option} takes a JSON object, not {text!r}")
    return found


def _judge(name: str | None, options: str | None, codec: Any) -> Any:
    if name is None:
        return None
    from nextmem_agents.evaluation.judge import Judge
    from nextmem_agents.evaluation.readers.named import load_reader

    return Judge(load_reader(name, codec, _options("--judge-options", options)))


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is not None:
        yield output
    else:
        with TemporaryDirectory(prefix="nextmem-evaluate-") as folder:
            yield Path(folder)
