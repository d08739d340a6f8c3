"""The time of a store: UTC, and within a process never backwards, whatever is done to the machine's clock."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import NamedTuple

from nextmem_agents.store.checks import check_time, time_to_text

_guard = threading.Lock()
_latest = datetime.min.replace(tzinfo=timezone.utc)


class Moment(NamedTuple):
    """The time of a read, as stored text: ``now``, which expiry goes by, and the time that is asked about."""

    now: str
    as_of: str | None = None


def utc_now() -> datetime:
    """The time, or the latest that this process has seen, if the clock was set back."""
    global _latest
    with _guard:
        _latest = max(_latest, datetime.now(timezone.utc))
        return _latest


def moment(as_of: object = None) -> Moment:
    """Now, or what held ``as_of`` a datetime or ISO 8601 string; ``InvalidArgument`` for anything else."""
    asked = None if as_of is None else time_to_text(check_time("as_of", as_of))
    return Moment(time_to_text(utc_now()), asked)
