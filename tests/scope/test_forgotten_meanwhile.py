"""What another thread forgets between two steps of a read is left out, and is no damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nextmem_agents import LatentCodec, MemoryNotFound, NextMem, Scope


@pytest.fixture
def scope(codec: LatentCodec, monkeypatch: pytest.MonkeyPatch) -> Scope:
    """Two memories, one of which is forgotten once records were read and before payloads are."""
    scope = NextMem.open(":memory:", codec=codec).scope("ann")
    scope.remember(["A note about boats.", "Another note about boats."], id=["gone", "left"])
    payloads = scope._store.payloads

    def forget_first(*arguments: Any) -> Any:
        monkeypatch.setattr(scope._store, "payloads", payloads)
        scope.forget(["gone"])
        return payloads(*arguments)

    monkeypatch.setattr(scope._store, "payloads", forget_first)
    return scope


@pytest.mark.parametrize(
    "read",
    [
        lambda scope: scope.list(),
        lambda scope: scope.recall("boats"),
        lambda scope: scope.recall("boats", diversity=0.5),
        lambda scope: scope.recall("boats", rerank=lambda query, texts: [0.5] * len(texts)),
        lambda scope: scope.sample(2),
    ],
    ids=["list", "recall", "diversity", "rerank", "sample"],
)
def test_it_is_left_out(scope: Scope, read: Callable[[Scope], Any]) -> None:
    assert [(memory.id, memory.text) for memory in read(scope)] == [("left", "Another note about boats.")]


@pytest.mark.parametrize(
    "read", [lambda scope: scope.get("gone"), lambda scope: scope.history("gone")], ids=["get", "history"]
)
def test_who_asks_for_it_by_its_id_is_told(scope: Scope, read: Callable[[Scope], Any]) -> None:
    with pytest.raises(MemoryNotFound):
        read(scope)
