"""Who said what when, in which session: what ranking must know of every memory of a scope, and nothing of its text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

Row = tuple[int, "str | None", "str | None", str, int]
"""Version, session, role, time and length of a memory."""

CACHED_MEMORIES = 1_000_000
"""How many memories' outlines are kept at hand, 48 bytes each; beyond, the scopes not read for longest go."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The memories of a scope that hold, by session and then by version; sessions stand by their first memories.

    Attributes:
        versions: ``[n]`` int64.
        sessions: ``[n]`` int64, place in ``session_names``, ascending; -1 for none, at the front.
        session_names: every session, those included whose memories hold no longer.
        roles: ``[n]`` int64, place in ``role_names``; -1 for none.
        role_names: every role that occurs.
        times: ``[n]`` float64, POSIX seconds: when it happened, or, where that is not known, was first remembered.
        lengths: ``[n]`` int64, sum of its term counts.
        matches: ``[n]`` bool, whether it passes the filter.
    """

    versions: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    session_names: tuple[str, ...]
    roles: npt.NDArray[np.int64]
    role_names: tuple[str, ...]
    times: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    matches: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, rows: Sequence[Row], known: Outline | None = None) -> Outline:
        """The outline of rows (version, session, role, time, length), and of the memories before them.

        Args:
            rows: by version; times as they are stored.
            known: what the rows come after: of lower versions, all of which match.
        """
        sessions, roles = (_places(names) for names in _names(known))
        for _, session, role, _, _ in rows:
            sessions.setdefault(session, len(sessions) - 1)
            roles.setdefault(role, len(roles) - 1)
        table = np.array([(v, sessions[s], roles[r], n) for v, s, r, _, n in rows], dtype=np.int64)
        versions, of_session, of_role, lengths = table.reshape(-1, 4).T
        # Stored times are all UTC, to the microsecond; numpy takes no offset.
        times = np.array([row[3][:26] for row in rows], dtype="datetime64[us]").astype(np.float64) / 1e6
        columns = [versions, of_session, of_role, times, lengths, np.ones(len(rows), dtype=bool)]
        if known is not None:
            before = (known.versions, known.sessions, known.roles, known.times, known.lengths, known.matches)
            columns = [np.concatenate(pair) for pair in zip(before, columns, strict=True)]
        order = np.argsort(columns[1], kind="stable")
        versions, of_session, of_role, times, lengths, matches = (column[order] for column in columns)
        session_names, role_names = (
            tuple(name for name in places if name is not None) for places in (sessions, roles)
        )
        return cls(versions, of_session, session_names, of_role, role_names, times, lengths, matches)

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


def _names(known: Outline | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return ((), ()) if known is None else (known.session_names, known.role_names)


def _places(names: tuple[str, ...]) -> dict[str | None, int]:
    return {None: -1} | {name: place for place, name in enumerate(names)}


class Outlines:
    """The outlines of the scopes read last, by scope key; they lie with the vectors' matrices, and go with them."""

    def __init__(self, budget: int = CACHED_MEMORIES) -> None:
        self._budget = budget
        self._outlines: OrderedDict[int, Outline] = OrderedDict()
        self._behind: set[int] = set()

    def get(self, scope: int, load: Callable[[int], Sequence[Row]]) -> Outline:
        """The scope's outline; ``load`` reads the rows that came after a version, all of them after 0."""
        if scope not in self._outlines or scope in self._behind:
            known = self._outlines.get(scope)
            after = int(known.versions.max(initial=0)) if known else 0
            self._outlines[scope] = Outline.read(load(after), known)
            self._behind.discard(scope)
            while len(self._outlines) > 1 and sum(map(len, self._outlines.values())) > self._budget:
                self._outlines.popitem(last=False)
        self._outlines.move_to_end(scope)
        return self._outlines[scope]

    def appended(self, scope: int) -> None:
        """Note that versions above all others were written to a scope, and no other one changed."""
        if scope in self._outlines:
            self._behind.add(scope)

    def drop(self, scope: int) -> None:
        """Forget a scope's outline, because what it holds was changed."""
        self._outlines.pop(scope, None)
        self._behind.discard(scope)

    def clear(self) -> None:
        """Forget all outlines."""
        self._outlines.clear()
        self._behind.clear()
