from __future__ import annotations

import operator
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nextmem_agents.errors import InvalidArgument
from nextmem_agents.store import EmbeddedStore, NewRecord

KEYS = ["a", "b", "quo\"te' --", "session", "role"]
SCALARS = (
    st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 0.1, 1.0, 2.0**53, 2**53 + 1, "", "a", "A", "é", "1", "\0", "b'); --"])
    | st.text(max_size=3)
)
WORDS = st.sampled_from(["s", "t", "é"])


def values(key):
    return WORDS if key in {"session", "role"} else SCALARS


@st.composite
def memories(draw):
    fields = draw(st.lists(st.sampled_from(KEYS), unique=True))
    return {key: draw(values(key)) for key in fields}


@st.composite
def filters(draw):
    where = {}
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=2)):
        conditions = {}
        for name in draw(
            st.lists(st.sampled_from([*RANGES, "$eq", "$ne", "$in"]), unique=True, min_size=1, max_size=2)
        ):
            value = draw(st.lists(values(key), max_size=3) if name == "$in" else values(key))
            if not (name in RANGES and isinstance(value, bool)):
                conditions[name] = value
        if conditions:
            where[key] = conditions
    return where


RANGES = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def kind(value):
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def equal(one, other):
    return kind(one) is kind(other) and one == other


def passes(memory, where):
    for key, conditions in where.items():
        for name, value in conditions.items():
            if key not in memory:
                if name != "$ne":
                    return False
                continue
            mine = memory[key]
            if name == "$in":
                matched = any(equal(mine, each) for each in value)
            elif name in {"$eq", "$ne"}:
                matched = equal(mine, value) == (name == "$eq")
            else:
                matched = kind(mine) is kind(value) and RANGES[name](mine, value)
            if not matched:
                return False
    return True


@settings(max_examples=120, deadline=None)
@given(st.lists(memories(), min_size=1, max_size=8), filters())
@example([{"a": 2**53 + 1}, {"a": 2.0**53}, {"a": True}, {"a": "1"}], {"a": {"$gt": 2.0**53}})
@example([{"a": True}, {"a": 1}, {"a": 1.0}, {}], {"a": {"$ne": 1}})
def test_a_filter_selects_what_python_would(items, where):
    with EmbeddedStore.open(":memory:", dim=1, fingerprint="f", codec_name="c") as store:
        records = [
            NewRecord(
                str(i),
                [b""],
                np.ones((1, 1), dtype=np.float32),
                {"word": 1},
                session=item.get("session"),
                role=item.get("role"),
                metadata={key: value for key, value in item.items() if key not in {"session", "role"}},
            )
            for i, item in enumerate(items)
        ]
        store.put("s", records)
        store.put("other", records)
        expected = [str(i) for i, item in enumerate(items) if passes(item, where)]
        found = list(store.list("s", where))
        assert [record.id for record in found] == expected
        versions = [record.version for record in found]
        assert [version for version, _ in store.nearest("s", [1.0], 100, where)] == versions
        assert store.postings("s", ["word"], where).terms["word"].versions.tolist() == versions
        if where:
            assert store.forget("s", where=where) == len(expected)
        assert store.count("other") == len(items)


@pytest.fixture
def dated(open_store, record):
    store = open_store(":memory:")
    for day in (1, 2, 3):
        store.put("s", [record(f"day {day}", occurred_at=datetime(2024, 5, day, tzinfo=timezone.utc))])
    store.put("s", [record("undated")])
    return store


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"occurred_at": {"$gte": "2024-05-02"}}, ["day 2", "day 3"]),
        ({"occurred_at": {"$lt": datetime(2024, 5, 2)}}, ["day 1"]),
        ({"occurred_at": "2024-05-02T02:00:00+02:00"}, ["day 2"]),
        ({"occurred_at": {"$in": ["2024-05-01", datetime(2024, 5, 3)]}}, ["day 1", "day 3"]),
        ({"occurred_at": {"$ne": "2024-05-01"}}, ["day 2", "day 3", "undated"]),
        ({"created_at": {"$gt": "2000-01-01"}, "id": "day 1"}, ["day 1"]),
        ({"id": {"$in": ["day 1", "nothing"]}}, ["day 1"]),
        ({"updated_at": {"$lt": "2000-01-01"}}, []),
        ({}, ["day 1", "day 2", "day 3", "undated"]),
    ],
)
def test_the_fields_of_every_memory_can_be_asked_for(dated, where, expected):
    assert [record.id for record in dated.list("s", where)] == expected


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("role = 'user'", "where is a dictionary"),
        ({"$or": [{"a": 1}]}, "no \\$or"),
        ({"a": {"$regex": "x"}}, "the operators are"),
        ({"a": {1: "x"}}, "the operators are"),
        ({"a": {}}, "says nothing"),
        ({"a": {"$eq": {"b": 1}}}, "plain value"),
        ({"a": {"b": 1}}, "the operators are"),
        ({"a": None}, "None is not stored"),
        ({"a": [1, 2]}, "\\$in"),
        ({"a": {"$gt": [1]}}, "\\$in"),
        ({"a": {"$in": "abc"}}, "takes a list"),
        ({"a": {"$in": [None]}}, "None is not stored"),
        ({"a": float("nan")}, "finite"),
        ({"a": 2**64}, "64 bits"),
        ({"a": b"x"}, "use a string"),
        ({"a": {"$gt": True}}, "no order"),
        ({1: "a"}, "key is a string"),
        ({"role": 3}, "this field is text"),
        ({"created_at": 3}, "datetime"),
        ({"created_at": "soon"}, "ISO 8601"),
        ({"a": {"$in": list(range(20_000))}}, "at most"),
    ],
)
@pytest.mark.parametrize("scope", ["s", "empty"])
def test_a_malformed_filter_is_refused_with_what_to_write(dated, where, hint, scope):
    for call in (
        lambda: dated.list(scope, where),
        lambda: dated.nearest(scope, [1.0] * 8, 1, where),
        lambda: dated.postings(scope, ["day"], where),
        lambda: dated.forget(scope, where=where),
    ):
        with pytest.raises(InvalidArgument, match=hint):
            call()
    assert dated.count("s") == 4


def test_infinity_bounds_every_number(open_store, record):
    store = open_store(":memory:")
    store.put("s", [record("n", metadata={"a": 5}), record("t", metadata={"a": "5"})])
    assert [found.id for found in store.list("s", {"a": {"$lt": float("inf")}})] == ["n"]
