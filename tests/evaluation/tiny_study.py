"""A conversation, a codec and a reader so small that whole studies take seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nextmem_agents.evaluation.readers import Reader

TURNS = {
    "session_1": [
        ("Ada", "I planted a quince tree. It is two metres tall."),
        ("Ben", "Lovely! My dog Rufus digs up everything."),
        ("Ada", "The quince cost 40 pounds at the market."),
    ],
    "session_2": [
        ("Ben", "Rufus sees the vet in Porto on Friday."),
        ("Ada", "My sister Ana opened a bakery in Lisbon."),
    ],
}
QUESTIONS = [
    ("What did the quince cost?", "40 pounds", ["D1:3"], 4),
    ("Where does Rufus see the vet?", "Porto", ["D2:1"], 4),
    ("When does Rufus see the vet?", "Friday", ["D2:1"], 2),
    ("What do Ada and Ben have at home?", "quince, dog", ["D1:1", "D1:2"], 1),
    ("What did Ben plant?", None, ["D1:1"], 5),
]


def item(name: str = "garden") -> dict[str, Any]:
    """A LoCoMo item of two sessions and five questions."""
    conversation: dict[str, Any] = {"speaker_a": "Ada", "speaker_b": "Ben"}
    for number, (session, turns) in enumerate(TURNS.items(), 1):
        conversation[f"{session}_date_time"] = f"9:00 am on {number} March, 2024"
        conversation[session] = [
            {"speaker": who, "dia_id": f"D{number}:{i}", "text": text}
            for i, (who, text) in enumerate(turns, 1)
        ]
    asked = [
        {
            "question": q,
            "evidence": e,
            "category": c,
            **({"answer": a} if a else {"adversarial_answer": "a tree"}),
        }
        for q, a, e, c in QUESTIONS
    ]
    return {"sample_id": name, "conversation": conversation, "qa": asked}


def write_locomo(folder: Path, *names: str) -> Path:
    """A LoCoMo file of such items."""
    path = folder / "garden.json"
    path.write_text(json.dumps([item(name) for name in names or ("garden",)]))
    return path


class Recording(Reader):
    """Notes every prompt, and says one thing."""

    name = "recording"

    def __init__(self, says: str = "Porto", instructions: str = ""):
        self.says = says
        self.instructions = instructions
        self.prompts: list[str] = []
        self.systems: list[str | None] = []

    def reply(self, prompt: str, system: str | None = None) -> str:
        self.prompts.append(prompt)
        self.systems.append(system)
        return self.says
