"""A backbone, texts and settings so small that both LoRA stages take seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nextmem_agents.training.stage_1 import Stage1Config
from nextmem_agents.training.stage_2 import Stage2Config
from tests.codec import tiny

STAGE_1 = Stage1Config(
    steps=4,
    batch_size=3,
    learning_rate=1e-3,
    warmup_steps=1,
    checkpoint_every=2,
    held_out=0.1,
    evaluate_texts=4,
    lora_rank=4,
    lora_alpha=8,
    max_tokens=24,
    positions="aligned",
)
STAGE_2 = Stage2Config(
    name="tiny-lora",
    steps=6,
    batch_size=3,
    learning_rate=1e-3,
    warmup_steps=1,
    checkpoint_every=2,
    held_out=0.1,
    evaluate_texts=4,
    lora_rank=4,
    lora_alpha=8,
    tokens_per_latent=4,
    latent_scale=None,
)


def write_texts(folder: Path, n: int = 60) -> Path:
    """A folder with one file of short texts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": f"Fact {i}: the harbour of town {i % 7} has {i * 3} boats."}) for i in range(n)
    ]
    (folder / "facts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def write_backbone(folder: Path, **changes: Any) -> Path:
    """A random Qwen3 in float32 with the tokenizer of Qwen's kind."""
    tiny.model(hidden=32, **changes).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny.tokenizer_json(), encoding="utf-8")
    return folder


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of each line of a run's log."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["loss"]) for row in rows]
