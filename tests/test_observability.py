"""Operations are seen from the outside, by how long, how many and how they ended; never by what they were about."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest

from nextmem_agents import EmptyText, MemoryNotFound, NextMem, observability
from nextmem_agents.observability import observed, scope_hash

CANARY = "xylophone-canary"
FIELDS = {"event", "operation", "scope_hash", "items", "seconds", "error_type"}


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Every record of every logger of the library."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = found.append  # type: ignore[method-assign]
    logger = logging.getLogger("nextmem_agents")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def live(memory: NextMem) -> None:
    """All operations, with a canary in everything that a caller gives."""
    scope = memory.scope(CANARY)
    note = scope.remember(CANARY, id=CANARY, session=CANARY, role=CANARY, metadata={"k": CANARY})
    scope.remember([f"{CANARY} again", "and more"])
    assert scope.recall(CANARY, 2)[0].text
    scope.update(note, f"{CANARY} anew")
    scope.answer(CANARY)
    assert len(list(scope.list())) == 3
    with pytest.raises(MemoryNotFound):
        scope.forget([f"{CANARY} that is not there"])
    with pytest.raises(EmptyText):
        scope.remember([CANARY, ""])
    scope.forget([note])
    scope.erase()


def test_every_operation_is_an_event_with_fields_and_no_text(
    memory: NextMem, records: list[logging.LogRecord]
) -> None:
    live(memory)
    events = [record for record in records if record.name == "nextmem_agents.operations"]
    assert {record.operation for record in events} == {
        "remember",
        "update",
        "encode",
        "recall",
        "decode",
        "forget",
        "erase",
    }  # type: ignore[attr-defined]
    assert all(vars(record).keys() >= FIELDS for record in events)
    assert CANARY not in "".join(f"{vars(record)} {record.getMessage()}" for record in records)
    failed = [(e.operation, e.error_type) for e in events if e.levelno == logging.WARNING]  # type: ignore[attr-defined]
    assert failed == [("forget", "MemoryNotFound"), ("remember", "EmptyText")]
    [erased] = [record for record in events if record.operation == "erase"]  # type: ignore[attr-defined]
    assert (erased.levelno, erased.items, erased.scope_hash) == (logging.INFO, 2, scope_hash(CANARY))  # type: ignore[attr-defined]


def test_the_library_leaves_it_to_the_application_where_records_go() -> None:
    handlers = logging.getLogger("nextmem_agents").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


def test_spans_and_metrics_go_to_the_applications_provider() -> None:
    pytest.importorskip("opentelemetry.sdk")
    script = """
        import json
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from nextmem_agents import NextMem
        from tests.test_observability import live
        spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
        with NextMem.open(":memory:") as memory:
            memory.scope("before").remember("before there is a provider")
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(spans))
            trace.set_tracer_provider(provider)
            metrics.set_meter_provider(MeterProvider([reader]))
            with trace.get_tracer("application").start_as_current_span("request"):
                live(memory)
        print(json.dumps({"spans": [json.loads(span.to_json()) for span in spans.get_finished_spans()],
                          "metrics": json.loads(reader.get_metrics_data().to_json())}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    spans = [span for span in found["spans"] if span["name"].startswith("nextmem.")]
    by_id = {span["context"]["span_id"]: span["name"] for span in found["spans"]}
    nested = {(by_id[span["parent_id"]], span["name"]) for span in spans}
    assert {("request", "nextmem.remember"), ("nextmem.remember", "nextmem.encode")} <= nested
    assert {
        ("request", "nextmem.recall"),
        ("request", "nextmem.forget"),
        ("request", "nextmem.erase"),
    } <= nested
    failed = [span for span in spans if span["status"]["status_code"] == "ERROR"]
    assert {span["attributes"]["error.type"] for span in failed} == {"MemoryNotFound", "EmptyText"}
    assert all(not span["events"] and "description" not in span["status"] for span in spans)
    assert all(span["attributes"].keys() <= {
        "nextmem.operation", "nextmem.items", "nextmem.scope.hash", "error.type",
    } for span in spans)  # fmt: skip
    [scope] = [
        scope
        for resource in found["metrics"]["resource_metrics"]
        for scope in resource["scope_metrics"]
        if scope["scope"]["name"] == "nextmem_agents"
    ]
    metrics = {metric["name"]: metric["data"]["data_points"] for metric in scope["metrics"]}
    assert metrics.keys() == {"nextmem.operation.duration", "nextmem.operation.items"}
    assert {"nextmem.operation": "recall"} in [p["attributes"] for p in metrics["nextmem.operation.duration"]]


def test_without_opentelemetry_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    observability._instruments.cache_clear()
    assert observed("double", items=lambda result, *_: result)(lambda n: 2 * n)(2) == 4
    assert observability._instruments() is None
    observability._instruments.cache_clear()


def test_observing_costs_microseconds() -> None:
    def nothing() -> None:
        return None

    def seconds(function: Any) -> float:
        best = 1.0
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(1000):
                function()
            best = min(best, time.perf_counter() - started)
        return best / 1000

    assert seconds(observed("nothing")(nothing)) - seconds(nothing) < 200e-6


def test_an_operation_in_a_thread_is_observed_where_it_was_asked_for(
    memory: NextMem, records: list[logging.LogRecord]
) -> None:
    asyncio.run(memory.scope("a").aremember("hello"))
    assert [r.operation for r in records if r.name.endswith(".operations")] == ["encode", "remember"]  # type: ignore[attr-defined]
