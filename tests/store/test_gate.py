"""The gate: many within, or one alone, and whoever wants to be alone is not passed by for ever."""

from __future__ import annotations

import threading

import pytest

from nextmem_agents.store.gate import Gate


def test_many_are_within_at_once_and_one_alone() -> None:
    gate = Gate()
    order: list[str] = []

    def alone() -> None:
        with gate.alone():
            order.append("alone")

    def later() -> None:
        with gate.shared():
            order.append("later")

    threads = [threading.Thread(target=alone), threading.Thread(target=later)]
    with gate.shared(), gate.shared():
        threads[0].start()
        while not gate._taken:
            pass
        threads[1].start()
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["alone", "later"]


def test_an_error_within_leaves_it_open() -> None:
    gate = Gate()
    for held in (gate.shared, gate.alone):
        with pytest.raises(KeyError), held():
            raise KeyError
    with gate.alone():
        pass
