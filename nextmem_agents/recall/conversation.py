"""What the conversation says about a memory: its neighbours, its session, and who spoke."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from nextmem_agents.recall.lexical import K1, Match, idf, saturate, terms
from nextmem_agents.store.outline import Outline

Scores = npt.NDArray[np.float64]

REACH, FALL = 8, 4.0
"""How many turns away a word still counts, and the distance at which it counts 1/e."""

# What chat APIs call the two sides; a question that holds such a word is rarely about who said something.
_SIDES = frozenset({"user", "human", "assistant", "ai", "system", "tool", "function", "developer"})


def has_sessions(outline: Outline) -> bool:
    """Whether any two memories are of one session."""
    return bool(_joined(outline).any())


def beside(outline: Outline, scores: Scores) -> Scores:
    """The better score of the memories directly before and after each in its session, ``[n]``; 0 without any."""
    found = np.zeros(len(outline))
    joined = _joined(outline)
    found[1:] = np.where(joined, scores[:-1], 0.0)
    found[:-1] = np.maximum(found[:-1], np.where(joined, scores[1:], 0.0))
    return found


def around(outline: Outline, matches: Sequence[Match]) -> Scores:
    """How much of the query is said around each memory, 0..1, ``[n]``: every term counts by how near it is said.

    A term said d turns away in the same session counts exp(-d / FALL), up to REACH turns; several times are summed,
    and saturate as in BM25. A question's words are often spread over a question, its answer and what follows.
    """
    n = len(outline)
    found, highest = np.zeros(n), 0.0
    shifts = [(s, _reaches(outline, s)) for d in range(1, min(REACH, n - 1) + 1) for s in (d, -d)]
    for match in matches:
        highest += match.idf
        nearness = np.zeros(n)
        nearness[match.rows] = match.strengths
        for shift, reaches in shifts:
            there = reaches[match.rows]
            # Each row occurs once, so plain addition is enough.
            nearness[match.rows[there] + shift] += np.exp(-abs(shift) / FALL) * match.strengths[there]
        found += match.idf * nearness / (nearness + 1.0)
    return found / highest if highest > 0 else found


def _reaches(outline: Outline, shift: int) -> npt.NDArray[np.bool_]:
    """Whether the memory so many rows on, or back, is of the same session, ``[n]``."""
    found = np.zeros(len(outline), dtype=np.bool_)
    before, after = outline.sessions[: -abs(shift)], outline.sessions[abs(shift) :]
    same = (before == after) & (before >= 0)
    if shift > 0:
        found[:-shift] = same
    else:
        found[-shift:] = same
    return found


def in_session(outline: Outline, matches: Sequence[Match]) -> Scores:
    """BM25 of each memory's whole session as one text, as a share of its maximum, ``[n]``.

    A memory without a session stands for itself.
    """
    n = len(outline)
    n_named = int(outline.sessions.max(initial=-1)) + 1
    alone = outline.sessions < 0
    sessions = np.where(alone, n_named + np.cumsum(alone) - 1, outline.sessions)
    lengths = np.bincount(sessions, outline.lengths, minlength=n_named)
    # Expired memories can leave a session's number without any memory.
    held = np.bincount(sessions, minlength=n_named) > 0
    n_sessions = int(held.sum())
    average = float(lengths[held].mean()) if n_sessions else 0.0
    scores, highest = np.zeros(len(lengths)), 0.0
    for match in matches:
        counted = match.strengths * match.frequencies
        counts = np.bincount(sessions[match.rows], counted, minlength=len(lengths))
        literal = match.strengths == 1
        rarity = idf(n_sessions, len(np.unique(sessions[match.rows[literal]])))
        highest += rarity * (K1 + 1)
        scores += rarity * saturate(counts, lengths, average)
    return scores[sessions] / highest if highest > 0 else np.zeros(n)


def speakers_named(outline: Outline, asked: Collection[str]) -> tuple[list[int], set[str]]:
    """The roles that a query names, as their places in ``outline.role_names``, and the terms that name them.

    A name that several roles share names none of them; neither does "user" or "assistant".

    Args:
        outline: of the scope.
        asked: the query's terms.
    """
    owners: dict[str, set[int]] = {}
    for place, name in enumerate(outline.role_names):
        if name.casefold() not in _SIDES:
            for term in terms(name):
                owners.setdefault(term, set()).add(place)
    naming = {term for term in asked if len(owners.get(term, ())) == 1}
    return sorted({place for term in naming for place in owners[term]}), naming


def spoken_by(outline: Outline, places: Sequence[int]) -> Scores | None:
    """1 for each memory of these speakers, else 0, ``[n]``; None where that would tell nothing apart."""
    if not places:
        return None
    found = np.isin(outline.roles, places)
    return None if found.all() or not found.any() else found.astype(np.float64)


def _joined(outline: Outline) -> npt.NDArray[np.bool_]:
    """Whether each memory and the one after it are of one session, ``[n - 1]``."""
    first, second = outline.sessions[:-1], outline.sessions[1:]
    return np.asarray((first == second) & (first >= 0))
