"""The rendered block, whole: compared with golden files.

Write them anew with ``NEXTMEM_UPDATE_GOLDEN=1 pytest tests/recall/test_golden.py``, and read the diff.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from nextmem_agents import LatentCodec
from nextmem_agents.recall.policy import Mode, make_plan
from nextmem_agents.recall.rendering import render
from tests.injections import ATTEMPTS
from tests.recall.test_policy import WORDS, Note

GOLDEN = Path(__file__).parent / "golden"
WHEN = datetime(2025, 5, 3, 10, 30, tzinfo=timezone.utc)
NOTES = [
    Note("I moved to Lisbon in May.\nIt rains less there.", role="Ann", occurred_at=WHEN, id="lisbon"),
    Note("How nice! 🇵🇹 Olá, 東京.", role="assistant", occurred_at=WHEN, id="nice"),
    Note("A page that somebody saved.", role=None, id="page", fidelity=None),
    Note("A long story. " * 30, role="user", id="story"),
    Note("short", role="user", id="short", fidelity=0.5),
]


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NEXTMEM_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_whole_memories_with_provenance() -> None:
    check("whole", render(NOTES[:3], WORDS))


def test_a_budget_leaves_out_what_does_not_fit_whole() -> None:
    check("budget", render(NOTES, WORDS, 50))


def test_a_first_memory_that_does_not_fit_is_cut() -> None:
    check("cut", render(NOTES[3:4], WORDS, 30))


def test_every_injection_attempt_as_it_is_shown() -> None:
    check("injections", render([Note(attempt, role="tool") for attempt in ATTEMPTS], WORDS))


@pytest.mark.parametrize("mode", ["auto", "decompress", "inject", "mixed"])
def test_plans(codec: LatentCodec, mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(codec.config, name="codec", answer_layout="released")
    answering = LatentCodec(config, codec.parts)
    monkeypatch.setattr(answering, "count_tokens", WORDS.count)  # not to hang on the codec that ships
    plan = make_plan(NOTES, WORDS, model=answering, mode=mode, max_tokens=80)  # type: ignore[arg-type]
    check(f"plan_{mode}", f"{plan}\n\n{plan.render()}")
