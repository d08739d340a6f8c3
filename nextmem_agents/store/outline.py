"""Who said what when, in which session: what ranking must know of every memory of a scope, and nothing of its text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

CACHED_MEMORIES = 1_000_000
"""How many memories' outlines are kept at hand, 48 bytes each; beyond, the scopes not read for longest go."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The memories of a scope that hold, session by session, each session in the order of writing.

    Attributes:
        versions: ``[n]`` int64.
        sessions: ``[n]`` int64, one number for the memories of one session, ascending; -1 for none, at the front.
        roles: ``[n]`` int64, place in ``role_names``; -1 for none.
        role_names: every role that occurs.
        times: ``[n]`` float64, POSIX seconds: when it happened, or, where that is not known, was first remembered.
        lengths: ``[n]`` int64, sum of its term counts.
        matches: ``[n]`` bool, whether it passes the filter.
    """

    versions: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    roles: npt.NDArray[np.int64]
    role_names: tuple[str, ...]
    times: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    matches: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, rows: Sequence[tuple[int, str | None, str | None, str, int]]) -> Outline:
        """The outline of rows (version, session, role, time, length), by session and then by version.

        Args:
            rows: with sessions of None first; times as they are stored.
        """
        sessions: dict[str | None, int] = {None: -1}
        roles: dict[str | None, int] = {None: -1}
        for _, session, role, _, _ in rows:
            sessions.setdefault(session, len(sessions) - 1)
            roles.setdefault(role, len(roles) - 1)
        table = np.array([(v, sessions[s], roles[r], n) for v, s, r, _, n in rows], dtype=np.int64).reshape(
            -1, 4
        )
        # Stored times are all UTC, to the microsecond; numpy takes no offset.
        times = np.array([row[3][:26] for row in rows], dtype="datetime64[us]").astype(np.float64) / 1e6
        names = tuple(name for name in roles if name is not None)
        return cls(
            table[:, 0], table[:, 1], table[:, 2], names, times, table[:, 3], np.ones(len(rows), dtype=bool)
        )

    def __len__(self) -> int:
        return len(self.versions)

    def rows(self, versions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Where these versions stand; each must be there."""
        return np.asarray(
            self._order[np.searchsorted(self.versions, versions, sorter=self._order)], dtype=np.int64
        )

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        return np.argsort(self.versions)

    def of(self, kept: npt.NDArray[np.bool_]) -> Outline:
        """The outline of some of the memories."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Outline(
            **{k: v[kept] if isinstance(v, np.ndarray) else v for k, v in columns.items()}  # type: ignore[arg-type]
        )


class Outlines:
    """The outlines of the scopes read last, by scope key; they lie with the vectors' matrices, and go with them."""

    def __init__(self, budget: int = CACHED_MEMORIES) -> None:
        self._budget = budget
        self._outlines: OrderedDict[int, Outline] = OrderedDict()

    def get(self, scope: int, load: Callable[[], Outline]) -> Outline:
        """The scope's outline, loaded if it is not at hand."""
        if scope not in self._outlines:
            self._outlines[scope] = load()
            while len(self._outlines) > 1 and sum(map(len, self._outlines.values())) > self._budget:
                self._outlines.popitem(last=False)
        self._outlines.move_to_end(scope)
        return self._outlines[scope]

    def drop(self, scope: int) -> None:
        """Forget a scope's outline, because the scope was written to."""
        self._outlines.pop(scope, None)

    def clear(self) -> None:
        """Forget all outlines."""
        self._outlines.clear()
