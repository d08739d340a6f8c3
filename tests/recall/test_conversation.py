"""What the conversation says about a memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.recall.conversation import (
    around,
    beside,
    has_sessions,
    in_session,
    speakers_named,
    spoken_by,
)
from nextmem_agents.recall.lexical import Match
from tests.recall.outlines import outline

TWO_SESSIONS = outline([("s1", "Ann", 5)] * 3 + [("s2", "Bob", 5)] * 3)


def match(rows: list[int], rarity: float = 1.0) -> Match:
    return Match(rarity, np.array(rows, np.int64), np.ones(len(rows), np.int64), np.ones(len(rows)))


def test_neighbours_are_of_the_same_session() -> None:
    scores = np.array([0, 0, 0.8, 0, 0.3, 0])
    assert beside(TWO_SESSIONS, scores).tolist() == [0, 0.8, 0, 0.3, 0, 0.3]


def test_a_memory_without_a_session_has_no_neighbours() -> None:
    loose = outline([(None, None, 5)] * 3)
    assert not beside(loose, np.ones(3)).any()
    assert not has_sessions(loose)
    assert has_sessions(TWO_SESSIONS)


def test_words_said_nearer_count_for_more_and_only_within_the_session() -> None:
    found = around(TWO_SESSIONS, [match([0])])
    assert found[0] > found[1] > found[2] > 0
    assert not found[3:].any()


def test_words_spread_over_turns_add_up() -> None:
    together = around(TWO_SESSIONS, [match([0]), match([2])])
    alone = around(TWO_SESSIONS, [match([0]), match([5])])
    assert together[1] > alone[1]


def test_a_session_is_scored_as_one_text() -> None:
    found = in_session(TWO_SESSIONS, [match([0]), match([2])])
    assert len(set(found[:3])) == 1
    assert found[0] > 0
    assert not found[3:].any()


def test_a_memory_without_a_session_is_a_session_of_its_own() -> None:
    mixed = outline([(None, None, 5), (None, None, 5), ("s", None, 5), ("s", None, 5)])
    found = in_session(mixed, [match([0])])
    assert found[0] > 0
    assert not found[1:].any()


@given(st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.integers(1, 9)), max_size=12), st.data())
def test_every_signal_is_between_0_and_1(rows: list[tuple[str | None, int]], data: st.DataObject) -> None:
    ordered = sorted(rows, key=lambda row: row[0] or "")
    scope = outline([(session, None, n) for session, n in ordered])
    holding = st.lists(st.integers(0, max(0, len(rows) - 1)), unique=True, max_size=len(rows))
    matches = [match(sorted(data.draw(holding)), rarity) for rarity in (0.5, 2.0)] if rows else [match([])]
    scores = np.full(len(scope), 0.5)
    for found in (around(scope, matches), in_session(scope, matches), beside(scope, scores)):
        assert found.shape == (len(scope),)
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("asked", "named"), [("ann", [0]), ("bob", [1]), ("paint", []), ("lee", []), ("user", [])]
)
def test_a_speaker_is_named_by_what_is_theirs_alone(asked: str, named: list[int]) -> None:
    scope = outline([("s", role, 1) for role in ("Ann Lee", "Bob Lee", "user")])
    places, naming = speakers_named(scope, ["what", asked])
    assert [scope.role_names[place] for place in places] == [scope.role_names[i] for i in named]
    assert naming == ({asked} if named else set())


def test_speech_counts_only_where_it_tells_memories_apart() -> None:
    assert spoken_by(TWO_SESSIONS, [0]).tolist() == [1, 1, 1, 0, 0, 0]  # type: ignore[union-attr]
    assert spoken_by(TWO_SESSIONS, []) is None
    assert spoken_by(TWO_SESSIONS, [0, 1]) is None
