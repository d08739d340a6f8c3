"""``nextmem evaluate retrieval``: files to haystacks, haystacks to tables and a folder of results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nextmem_agents.codec import DEFAULT_CODEC
from nextmem_agents.errors import InvalidArgument
from nextmem_agents.evaluation.table import rendered

if TYPE_CHECKING:
    from nextmem_agents.codec.latent_codec import LatentCodec
    from nextmem_agents.evaluation.benchmark import Benchmark
    from nextmem_agents.evaluation.haystacks import Haystack
    from nextmem_agents.evaluation.retrieval import Searched

CONTROL = "bm25+neighbours"


def retrieval(
    conversation: Annotated[
        Path | None, typer.Option(help="A LoCoMo file; by default, the packaged conversation.")
    ] = None,
    squad: Annotated[Path | None, typer.Option(help="A SQuAD file: its paragraphs are searched.")] = None,
    hotpotqa: Annotated[
        Path | None, typer.Option(help="A HotpotQA file: all its paragraphs together.")
    ] = None,
    longmemeval: Annotated[
        Path | None,
        typer.Option(help="A LongMemEval file; histories of fewer than 20 sessions are left out."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many questions of SQuAD and HotpotQA, spread evenly."),
    ] = None,
    cross_validate: Annotated[
        bool,
        typer.Option(
            "--cross-validate",
            help="Also: weights tuned on all conversations but the one that is asked about.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for retrieval.json, retrieval.md and what was found.")
    ] = None,
    codec: Annotated[
        str, typer.Option(help="A shipped codec's name or a checkpoint folder.")
    ] = DEFAULT_CODEC,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown tables.")] = False,
) -> None:
    """Search for the evidence of questions, beside plain text memories over the same texts.

    The controls are SQLite's FTS5, stemmed BM25, and stemmed BM25 with a share of the neighbouring turns' score.
    """
    from nextmem_agents.codec.latent_codec import LatentCodec

    loaded = LatentCodec.load(codec)
    results = []
    for benchmark, haystacks in _data(conversation, squad, hotpotqa, longmemeval, limit):
        searched = _search(benchmark, haystacks, loaded, cross_validate)
        results.append(
            _result(benchmark, haystacks, searched, cross_validate) | {"codec": loaded.fingerprint}
        )
        if output is not None:
            _write_found(output, benchmark, haystacks, searched)
    page = "\n\n".join(markdown(result) for result in results)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "retrieval.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (output / "retrieval.md").write_text(page + "\n", encoding="utf-8")
    typer.echo(json.dumps(results, indent=1) if as_json else page)


def markdown(result: Mapping[str, Any]) -> str:
    """A result of :func:`retrieval` as a page of tables."""
    parts = [
        f"## {result['benchmark']}",
        f"{result['source']} (sha256 {result['sha256'][:12]}), {result['date']}, codec {result['codec']}. "
        f"Encoding a question takes {result['encode_ms']:.1f} ms in the same run.",
    ]
    for title, rows in result["tables"].items():
        parts += [f"### {title}", rendered(rows)]
    if result["bootstrap"]:
        parts += [
            "### Hybrid against the controls (paired bootstrap over questions)",
            rendered(result["bootstrap"]),
        ]
    return "\n\n".join(parts)


def _data(
    conversation: Path | None,
    squad: Path | None,
    hotpotqa: Path | None,
    longmemeval: Path | None,
    limit: int | None,
) -> Iterator[tuple[Benchmark, list[Haystack]]]:
    from nextmem_agents.evaluation import haystacks
    from nextmem_agents.evaluation.benchmark import locomo_benchmark
    from nextmem_agents.evaluation.locomo import default_conversation
    from nextmem_agents.evaluation.longmemeval import longmemeval_benchmark
    from nextmem_agents.evaluation.passages import load_benchmark

    if conversation is not None or (squad is None and hotpotqa is None and longmemeval is None):
        benchmark = locomo_benchmark(conversation or default_conversation())
        yield benchmark, haystacks.conversations(benchmark)
    if longmemeval is not None:
        benchmark = longmemeval_benchmark(longmemeval)
        yield benchmark, haystacks.conversations(benchmark)
    for path, name in ((squad, "SQuAD"), (hotpotqa, "HotpotQA")):
        if path is not None:
            benchmark = load_benchmark(path)
            if benchmark.name != name:
                raise InvalidArgument(f"{path} is no {name} file, but {benchmark.name}")
            yield benchmark, [haystacks.passages(benchmark, limit)]


def _search(
    benchmark: Benchmark, haystacks: Sequence[Haystack], codec: LatentCodec, keep_parts: bool
) -> Searched:
    from rich.console import Console
    from rich.progress import Progress

    from nextmem_agents.evaluation.retrieval import search

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(benchmark.name, total=sum(len(h.items) for h in haystacks))
        return search(haystacks, codec, keep_parts=keep_parts, done=lambda n: progress.advance(task, n))


def _result(
    benchmark: Benchmark, haystacks: Sequence[Haystack], searched: Searched, cross_validate: bool
) -> dict[str, Any]:
    from nextmem_agents.evaluation.retrieval import CONTROLS, MEASURES, bootstrap, by_category, table
    from nextmem_agents.evaluation.retrieval_tuning import cross_validated, untouched
    from nextmem_agents.recall.ranking import TUNED_ON

    tables: dict[str, Any] = {"All questions": table(searched)}
    compared = {"all": np.ones(len(searched.categories), dtype=bool)}
    rest = untouched(searched)
    if rest is not None:
        compared["rest"] = rest
        tables[f"Without the conversations that weights were tuned on ({', '.join(TUNED_ON)})"] = table(
            searched, rest
        )
    hybrid = {"hybrid": searched.values["hybrid"]}
    if cross_validate and len(set(searched.haystacks.tolist())) > 1:
        hybrid["cross-validated"] = cross_validated(searched, haystacks)
        means = dict(zip(MEASURES, hybrid["cross-validated"].mean(axis=0).tolist(), strict=True))
        tables["All questions, weights tuned on the other conversations"] = [
            {"ranking": "hybrid, cross-validated", "questions": len(hybrid["cross-validated"]), **means}
        ]
    if len(set(searched.categories.tolist())) > 1:
        tables["Recall at 5 by category"] = by_category(searched, "recall_5")
        tables["Recall at 10 by category"] = by_category(searched, "recall_10")
    rows = [
        {"ranking": name, "questions": where, "control": control, "measure": measured}
        | bootstrap(values[kept][:, column], searched.values[control][kept][:, column])
        for name, values in hybrid.items()
        for where, kept in compared.items()
        for control in CONTROLS
        for measured, column in (
            ("recall_5", MEASURES.index("recall_5")),
            ("recall_10", MEASURES.index("recall_10")),
        )
    ]
    return {
        "benchmark": benchmark.name,
        "source": benchmark.source,
        "sha256": benchmark.sha256,
        "date": date.today().isoformat(),
        "items": sum(len(h.items) for h in haystacks),
        "encode_ms": searched.encode_ms,
        "tables": tables,
        "bootstrap": rows,
    }


def _write_found(
    folder: Path, benchmark: Benchmark, haystacks: Sequence[Haystack], searched: Searched
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    queries = [(haystack, query) for haystack in haystacks for query in haystack.queries]
    with (folder / f"{benchmark.name.lower()}.jsonl").open("w", encoding="utf-8") as file:
        for i, (haystack, query) in enumerate(queries):
            found = {name: rows[i] for name, rows in searched.found.items()}
            line = {
                "haystack": haystack.name,
                "id": query.id,
                "question": query.text,
                "category": query.category,
            }
            file.write(
                json.dumps(line | {"evidence": query.evidence, "found": found}, ensure_ascii=False) + "\n"
            )
