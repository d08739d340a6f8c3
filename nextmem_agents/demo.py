"""The demo: a LangChain agent reads a conversation, forgets nothing of it, and is asked about it. All offline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nextmem_agents.codec.latent_codec import LatentCodec
from nextmem_agents.errors import MissingExtra
from nextmem_agents.evaluation.agent_loop import Ask, Asked, Totals, ask, read, total, turn_text
from nextmem_agents.evaluation.locomo import CATEGORIES, Conversation
from nextmem_agents.memory import NextMem


def langchain_agent(memory: NextMem, user: str, k: int) -> Ask:
    """A LangChain agent with ``NextMemMemory`` as its memory and a reader that quotes what it recalls.

    Raises:
        MissingExtra: LangChain is not installed.
    """
    try:
        from langchain.agents import create_agent

        from langchain_nextmem import NextMemMemory, QuotingChatModel
    except ImportError as error:
        raise MissingExtra('the demo needs LangChain: pip install "nextmem-agents[langchain]"') from error
    middleware = NextMemMemory(memory=memory, user_id=user, k=k).as_middleware(remember=False)
    agent = create_agent(QuotingChatModel(), middleware=[middleware])

    def reply(question: str) -> str:
        return str(agent.invoke({"messages": [{"role": "user", "content": question}]})["messages"][-1].text)

    return reply


@contextmanager
def _folder(store: Path | None) -> Iterator[Path]:
    if store is not None:
        yield store
    else:
        with TemporaryDirectory(prefix="nextmem-demo-") as folder:
            yield Path(folder)


def run(
    conversations: Sequence[Conversation],
    console: Console,
    *,
    codec: str,
    store: Path | None,
    k: int,
    details: bool,
) -> Totals:
    """Read the conversations, each in a scope of its own, reopen the store, ask every question; print all of it."""
    loaded = LatentCodec.load(codec)
    with _folder(store) as folder:
        turns = [turn for c in conversations for turn in c.turns if turn.text or turn.caption]
        text_bytes = sum(len(turn_text(turn).encode()) for turn in turns)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        started = time.perf_counter()
        with NextMem.open(folder, codec=loaded) as memory, Progress(*columns, console=console) as progress:
            task = progress.add_task("Reading turns into 4-bit latents", total=len(turns))
            for conversation in conversations:
                scope = memory.scope(conversation.id)
                scope.clear()
                read(scope, conversation, lambda n: progress.advance(task, n))
        reading = time.perf_counter() - started
        # A new process would see the same: the store is closed and opened again before the first question.
        with NextMem.open(folder, codec=loaded) as memory, Progress(*columns, console=console) as progress:
            task = progress.add_task("Asking", total=sum(len(c.questions) for c in conversations))
            asked: list[Asked] = []
            for conversation in conversations:
                agent = langchain_agent(memory, conversation.id, k)
                for answer in ask(memory.scope(conversation.id), conversation, agent, k):
                    asked.append(answer)
                    progress.advance(task)
            sizes = memory.sizes()
        if details:
            for number, answer in enumerate(asked, 1):
                _print_question(console, number, answer)
        totals = total(asked)
        _print_totals(console, totals, k, len(turns), text_bytes, reading, sizes)
        return totals


def _print_question(console: Console, number: int, asked: Asked) -> None:
    question = asked.question
    if asked.evidence_recall is None:
        verdict = "[dim]no evidence to find[/]"
    elif question.category == 5:
        verdict = "[dim]not answerable from the conversation[/]"
    elif asked.evidence_recall == 1:
        verdict = "[green]evidence hit[/]"
    elif asked.evidence_recall:
        verdict = f"[yellow]evidence {asked.evidence_recall:.0%}[/]"
    else:
        verdict = "[red]evidence miss[/]"
    console.print(f"\n[bold]{number}. {escape(question.text)}[/]  [dim]{CATEGORIES[question.category]}[/]")
    for hit in asked.hits:
        mark = "[green]*[/]" if hit.metadata["dia_id"] in question.evidence else " "
        exact = "exact" if hit.exact else "[red]NOT EXACT[/]"
        line = escape(" ".join(hit.text.split()))
        console.print(
            f"  {mark} {hit.score:.2f} {exact} [dim]{hit.metadata['dia_id']:>6}[/] {line}",
            no_wrap=True,
            overflow="ellipsis",
        )
    console.print(
        f"  recalled: {verdict}; context: {asked.text_tokens} tokens as text, {asked.latent_tokens} as latents"
    )
    wanted = question.answer if question.answer is not None else "(no answer)"
    console.print(f"  reply: {escape(asked.reply)}  [dim](expected: {escape(wanted)})[/]")


def _print_totals(
    console: Console, totals: Totals, k: int, n: int, text_bytes: int, reading: float, sizes: dict[str, int]
) -> None:
    table = Table(title="Totals", show_header=False, title_justify="left")
    table.add_row("memories", f"{n}, {text_bytes / n:.0f} bytes of text each")
    table.add_row("read in", f"{reading:.1f} s, {1000 * reading / n:.0f} ms a memory")
    table.add_row("evidence recall", f"{totals.evidence_recall:.3f} at {k}, over {totals.scored} questions")
    table.add_row("a piece of evidence found", f"{totals.hit_rate:.1%} of those questions")
    table.add_row("exact", f"{totals.exact:.1%} of the recalled texts")
    table.add_row("answer F1", f"{totals.f1:.3f} (a reader that quotes one sentence, no language model)")
    if totals.adversarial_f1 is not None:
        table.add_row("unanswerable refused", f"{totals.adversarial_f1:.1%} (this reader never refuses)")
    table.add_row(
        "context a question",
        f"{totals.text_tokens:.0f} tokens as text, {totals.latent_tokens:.0f} as latents",
    )
    table.add_row("recall", f"{totals.recall_ms:.0f} ms, texts decoded")
    table.add_row("the agent's turn", f"{totals.answer_ms:.0f} ms")
    other = sizes["records"] - sizes["payloads"] - sizes["vectors"] - sizes["lexical"]
    for name, size in (
        ("payload (4-bit latents)", sizes["payloads"]),
        ("index vectors", sizes["vectors"]),
        ("lexical index", sizes["lexical"]),
        ("records, rest of SQLite", other),
        ("Chroma index", sizes["chroma"]),
    ):
        table.add_row(f"disk: {name}", f"{size / n:,.0f} bytes a memory")
    console.print()
    console.print(table)
