"""Who is trusted, and what is not."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from nextmem_agents import InvalidArgument, Trust
from nextmem_agents.store.records import Record

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)


def record(role: str | None = None, source: str | None = None, **fields: Any) -> Record:
    return Record(
        version=1, id="a", session=None, agent=None, role=role, occurred_at=None, created_at=NOW, updated_at=NOW,
        metadata={} if source is None else {"source": source}, n_chunks=1, valid_from=NOW, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "trusted"),
    [
        (record("user"), True),
        (record("assistant"), True),
        (record("tool"), False),
        (record(None), False),
        (record("system"), False),
        (record("user", source="chat"), True),
        (record("assistant", derived_from="https://example.org"), False),
        (record("tool", written_by="user"), False),  # a name in another field makes nobody a user
    ],
)
def test_by_default_what_the_user_and_the_assistant_said_themselves(written: Record, trusted: bool) -> None:
    assert Trust().admits(written) is trusted


def test_a_trusted_source_is_trusted_whoever_brought_it() -> None:
    trust = Trust(roles=(), sources=("handbook.pdf",))
    assert trust.admits(record("tool", source="handbook.pdf"))
    assert trust.admits(record("tool", derived_from="handbook.pdf"))
    assert trust.admits(record(None, written_by="handbook.pdf"))
    assert not trust.admits(record("user"))


@pytest.mark.parametrize(
    ("where", "narrowed"),
    [
        (None, {"role": {"$in": ["user"]}}),
        ({"year": 1}, {"year": 1, "role": {"$in": ["user"]}}),
        ({"role": "user"}, {"role": {"$eq": "user", "$in": ["user"]}}),
        ({"role": {"$ne": "bob"}}, {"role": {"$ne": "bob", "$in": ["user"]}}),
        ({"role": {"$in": ["bob"]}}, {"role": {"$in": ["bob"]}}),
    ],
)
def test_a_filter_is_narrowed_and_never_widened(where: Any, narrowed: Any) -> None:
    assert Trust(roles=("user",)).narrowed(where) == narrowed
    assert Trust(roles=("user",), sources=("a",)).narrowed(where) == where


@pytest.mark.parametrize("wrong", [{"roles": "user"}, {"sources": [1]}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Trust(**wrong)
