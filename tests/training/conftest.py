"""A corpus and settings so small that a run takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextmem_agents.training.config import ScratchConfig

SETTINGS = ScratchConfig(
    name="tiny",
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=2,
    head_dim=16,
    vocabulary=320,
    frame_tokens=32,
    tokens_per_latent=4,
    steps=6,
    frames_per_step=4,
    warmup_steps=2,
    checkpoint_every=2,
    sources={"facts": 2.0, "talk": 1.0, "synthetic": 0.5},
)


@pytest.fixture(autouse=True)
def few_synthetic_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextmem_agents.training.corpus._SYNTHETIC_TEXTS", 200)


@pytest.fixture
def settings() -> ScratchConfig:
    return SETTINGS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    facts = [
        {"text": f"Fact {i}: the harbour of town {i % 7} has {i * 3} boats and a red lighthouse."}
        for i in range(80)
    ]
    talk = [
        {"text": f"Ann: Hello {i}!\nBob: Good to see you, shall we sail?", "kind": "dialogue"}
        for i in range(40)
    ]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, talk)))
    return folder
