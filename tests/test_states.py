"""The facade over ``mini`` against a plain model: exact texts, through updates, expiry, erasure and reopening.

``NEXTMEM_MINI_STEPS`` is how many steps are taken: 30 by default, 300 for the full run. The store alone has its own,
longer test (``tests/store/test_states.py``).
"""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from nextmem_agents import LatentCodec, NextMem
from nextmem_agents.store import clock

STEPS = int(os.environ.get("NEXTMEM_MINI_STEPS", "30"))
SCOPES = ("a", "b", "A")
TEXTS = [
    f"{who} {what} on day {n}."
    for who in ("Ann", "Bob", "Zoë 🙂")
    for what in ("met the doctor", "bought 17 red apples", "飞往里斯本")
    for n in range(3)
]


@pytest.mark.timeout(3_600)
def test_texts_are_what_a_plain_model_holds(
    codec: LatentCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = random.Random(5)
    memory = NextMem.open(tmp_path / "m", codec=codec)
    model: dict[str, dict[str, list[str]]] = {scope: {} for scope in SCOPES}
    expiring: dict[tuple[str, str], int] = {}
    for step in range(STEPS):
        name = choose.choice(SCOPES)
        scope, held = memory.scope(name), model[name]
        action = choose.choice(
            [
                "remember",
                "remember",
                "remember",
                "update",
                "forget",
                "expire",
                "wait",
                "erase",
                "reopen",
                "rebuild",
            ]
        )
        id_ = f"m{choose.randrange(5)}"
        text = choose.choice(TEXTS)
        if action == "remember":
            scope.remember(text, id=id_)
            held.setdefault(id_, []).append(text)
            expiring.pop((name, id_), None)
        elif action == "update" and id_ in held:
            scope.update(id_, text)
            held[id_].append(text)
        elif action == "forget" and id_ in held:
            assert scope.forget([id_]) == 1
            del held[id_]
            expiring.pop((name, id_), None)
        elif action == "expire":
            scope.remember(text, id=id_, ttl=timedelta(days=3))
            held.setdefault(id_, []).append(text)
            expiring[name, id_] = 3
        elif action == "wait":
            monkeypatch.setattr(clock, "_latest", clock.utc_now() + timedelta(days=2))
            expiring = {key: days - 2 for key, days in expiring.items()}
            for gone in [key for key, days in expiring.items() if days <= 0]:
                del expiring[gone], model[gone[0]][gone[1]]
        elif action == "erase" and step % 10 == 0:
            assert scope.erase().memories == len(held)
            held.clear()
            expiring = {key: days for key, days in expiring.items() if key[0] != name}
        elif action == "reopen":
            memory.close()
            memory = NextMem.open(tmp_path / "m", codec=codec)
        elif action == "rebuild":
            memory.rebuild()
        for name, held in model.items():
            scope = memory.scope(name)
            listed = list(scope.list())
            assert {m.id: m.text for m in listed} == {id_: texts[-1] for id_, texts in held.items()}
            assert all(m.exact for m in listed)
        if id_ in model[name]:
            assert [m.text for m in memory.scope(name).history(id_)] == model[name][id_]
    for name, held in model.items():
        for id_, texts in held.items():
            assert [m.text for m in memory.scope(name).history(id_)] == texts
            assert memory.scope(name).recall(texts[-1], k=len(held), where={"id": id_})[0].text == texts[-1]
    assert memory.verify(texts=True).sound
    memory.close()
