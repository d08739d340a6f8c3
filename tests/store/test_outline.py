"""The outline of a scope: what ranking knows of every memory, current after every change, in both layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from nextmem_agents.store import EmbeddedStore, NewRecord, Store, clock
from nextmem_agents.store.outline import Outline, Outlines, Row
from nextmem_agents.store.server import ServerStore
from tests.store.conftest import DIM

MAY = datetime(2024, 5, 1, 12, 30, tzinfo=timezone.utc)


@pytest.fixture(params=["embedded", "chroma"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    options: dict[str, Any] = {"dim": DIM, "fingerprint": "f1", "codec_name": "mini"}
    if request.param == "embedded":
        with EmbeddedStore.open(":memory:", **options) as opened:
            yield opened
    else:
        with ServerStore.open_folder(":memory:", **options) as opened:
            yield opened


def ids(store: Store, found: Outline) -> list[str]:
    names = {version: record.id for version, record in store.records("a", found.versions.tolist()).items()}
    return [names[version] for version in found.versions.tolist()]


def test_memories_stand_by_session_and_then_by_writing(
    store: Store, record: Callable[..., NewRecord]
) -> None:
    store.put("a", [record("one", session="t", role="Bob"), record("two", session="s", role="Ann")])
    store.put("a", [record("three words here"), record("four", session="t", role="Ann", occurred_at=MAY)])
    found = store.outline("a")
    assert ids(store, found) == ["three words here", "one", "four", "two"]
    assert found.sessions.tolist() == [-1, 0, 0, 1]
    assert found.session_names == ("t", "s")
    assert [found.role_names[i] if i >= 0 else None for i in found.roles] == [None, "Bob", "Ann", "Ann"]
    assert found.lengths.tolist() == [3, 1, 1, 1]
    assert found.times[2] == MAY.timestamp()
    assert abs(found.times[0] - clock.utc_now().timestamp()) < 60
    assert found.rows(found.versions[[2, 0]]).tolist() == [2, 0]
    assert len(store.outline("b")) == 0


def test_what_does_not_match_is_there_and_marked(store: Store, record: Callable[..., NewRecord]) -> None:
    store.put("a", [record(f"r{i}", session="s", role="Ann" if i % 2 else "Bob") for i in range(3)])
    assert store.outline("a", where={"role": "Ann"}).matches.tolist() == [False, True, False]
    assert store.outline("a").matches.all()


def test_every_change_is_seen(store: Store, record: Callable[..., NewRecord]) -> None:
    store.put("a", [record("one", session="s"), record("two", session="s")])
    assert len(store.outline("a")) == 2
    store.put("a", [record("three", session="s")])
    assert ids(store, store.outline("a")) == ["one", "two", "three"]
    store.put("a", [record("other text", id_="one", session="u")])
    assert ids(store, store.outline("a")) == ["two", "three", "one"]
    assert store.outline("a").sessions.tolist() == [0, 0, 1]
    store.forget("a", ["two"])
    assert ids(store, store.outline("a")) == ["three", "one"]
    store.erase("a")
    assert len(store.outline("a")) == 0


def test_what_has_expired_or_holds_no_longer_is_gone(
    store: Store, record: Callable[..., NewRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = clock.utc_now() + timedelta(hours=1)
    store.put("a", [record("stays"), record("expires", expires_at=soon), record("ends", valid_to=soon)])
    assert len(store.outline("a")) == 3
    later = soon + timedelta(seconds=1)
    monkeypatch.setattr(clock, "utc_now", lambda: later)
    assert ids(store, store.outline("a")) == ["stays"]
    # A question about the time when it held sees what ended, and not what expired.
    assert ids(store, store.outline("a", as_of=soon - timedelta(minutes=1))) == ["stays", "ends"]


def test_outlines_are_bounded_and_dropped() -> None:
    read: list[int] = []

    def of(n: int) -> Callable[[int], list[Row]]:
        def load(after: int) -> list[Row]:
            read.append(after)
            return [(i, None, None, "2024-05-01T12:30:00.000000+00:00", 1) for i in range(after + 1, n + 1)]

        return load

    cache = Outlines(budget=10)
    for scope in range(4):
        assert len(cache.get(scope, of(4))) == 4
    read.clear()
    for scope in (3, 2, 0):
        cache.get(scope, of(4))
    assert read == [0]  # two fit, and the first had to go
    cache.drop(0)
    assert len(cache.get(0, of(1))) == 1
    cache.appended(0)
    assert cache.get(0, of(3)).versions.tolist() == [1, 2, 3]
    assert read == [0, 0, 1]
    cache.clear()
    assert len(cache.get(0, of(2))) == 2


def test_what_was_appended_stands_where_reading_all_of_it_would_put_it() -> None:
    time = "2024-05-01T12:30:00.000000+00:00"
    rows: list[Row] = [
        (version, session, role, time, version)
        for version, (session, role) in enumerate(
            [
                ("s", "Ann"),
                (None, None),
                ("t", "Bob"),
                ("s", None),
                ("u", "Eve"),
                (None, "Ann"),
                ("t", "Bob"),
            ],
            1,
        )
    ]
    whole = Outline.read(rows)
    for cut in range(len(rows) + 1):
        extended = Outline.read(rows[cut:], Outline.read(rows[:cut]))
        for field in fields(Outline):
            assert np.array_equal(getattr(extended, field.name), getattr(whole, field.name)), field.name


def test_some_of_an_outline() -> None:
    times = "2024-05-01T12:30:00.000000+00:00"
    whole = Outline.read([(1, None, "Ann", times, 2), (2, "s", None, times, 3), (3, "s", "Ann", times, 4)])
    part = whole.of(np.array([True, False, True]))
    assert (part.versions.tolist(), part.roles.tolist(), part.role_names) == ([1, 3], [0, 0], ("Ann",))
