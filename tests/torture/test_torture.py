"""A short torture, for every run of the tests; ``make torture`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.kills import Lost, torture
from tests.torture.workload import record_of


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.timeout(900)  # seconds on a machine of its own, minutes on one that trains beside it
@pytest.mark.parametrize(("layout", "kills"), [("embedded", 4), ("server", 3)])
def test_nothing_that_was_acknowledged_is_lost(layout: str, kills: int, tmp_path: Path) -> None:
    outcome = torture(layout, tmp_path, kills=kills, memories=100)
    assert outcome.losses == []
    assert outcome.kills == kills
    assert outcome.server_kills == (1 if layout == "server" else 0)
    assert outcome.acknowledged > kills


@pytest.mark.parametrize("loss", ["a memory", "a revision", "a word"])
def test_a_loss_is_noticed(loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: a store that loses one thing does not pass."""
    from nextmem_agents.store import EmbeddedStore
    from tests.torture import kills

    with_loss = EmbeddedStore.put

    def lossy(store: EmbeddedStore, scope: str, records: list) -> object:
        if loss == "a memory":
            return with_loss(store, scope, records[:-1])
        if loss == "a revision":
            return with_loss(store, scope, [*records[:-1], record_of(records[-1].metadata["n"], 7)])
        records[-1].terms.pop(f"{records[-1].id}x")
        return with_loss(store, scope, records)

    monkeypatch.setattr(EmbeddedStore, "put", lossy)
    expected = kills.Expected()
    kills._fill("embedded", str(tmp_path), 5, expected)
    with pytest.raises(Lost):
        kills._check("embedded", str(tmp_path), expected, kills.Outcome("embedded"), set(range(5)))
