from __future__ import annotations

import unicodedata
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store import check_metadata, check_scope
from nextmem_agents.store.checks import check_time, time_to_text


@pytest.mark.parametrize("scope", ["alice", "a b", "tenant/7:é", "人", "x" * 256, "a\u200bb", "👩‍🚀"])
def test_a_scope_is_taken_as_it_is(scope):
    assert check_scope(scope) == scope


@given(st.text(max_size=300))
def test_a_scope_is_never_changed_only_refused(scope):
    try:
        assert check_scope(scope) == scope
    except InvalidArgument:
        assert (
            not 1 <= len(scope) <= 256
            or scope != scope.strip()
            or scope != unicodedata.normalize("NFC", scope)
            or any(unicodedata.category(character) in {"Cc", "Cs"} for character in scope)
        )


@pytest.mark.parametrize(
    ("metadata", "hint"),
    [
        ([("a", 1)], "dictionary"),
        ({1: "a"}, "key is a string"),
        ({"": "a"}, "characters"),
        ({"role": "a"}, "pass it as role="),
        ({"$eq": "a"}, "operators"),
        ({"a": None}, "leave the key out"),
        ({"a": float("nan")}, "finite"),
        ({"a": float("inf")}, "finite"),
        ({"a": 2**63}, "64 bits"),
        ({"a": datetime(2024, 1, 1)}, "isoformat"),
        ({"a": [1]}, "use a string"),
        ({"a": np.int64(1)}, "use a string"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused_with_a_hint(metadata, hint):
    with pytest.raises(InvalidArgument, match=hint):
        check_metadata(metadata)


def test_metadata_is_copied():
    mine = {"a": 1}
    checked = check_metadata(mine)
    mine["a"] = 2
    assert checked == {"a": 1}


@given(st.lists(st.datetimes(timezones=st.none() | st.timezones()), min_size=2, max_size=2))
def test_times_sort_as_their_texts(times):
    try:
        one, two = (check_time("time", time) for time in times)
    except InvalidArgument:  # outside the years 1 to 9999 once in UTC
        return
    assert (time_to_text(one) < time_to_text(two)) == (one < two)
    assert check_time("time", time_to_text(one)) == one


def test_iso_texts_are_times():
    expected = datetime(2024, 5, 1, 10, tzinfo=timezone.utc)
    for text in ("2024-05-01T10:00:00Z", "2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00"):
        assert check_time("time", text) == expected
    assert check_time("time", "2024-05-01") == expected.replace(hour=0)
    with pytest.raises(InvalidArgument, match="ISO 8601"):
        check_time("time", "yesterday")
