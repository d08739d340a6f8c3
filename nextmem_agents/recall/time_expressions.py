"""Times that a question names, and how near to them a memory's own time lies."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import numpy.typing as npt

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)\b"
# Names such as April and words such as "may" are months only where something says so.
_BEFORE = r"(?:in|during|since|until|till|by|before|after|of|early|mid|late|this|last|next|around)[\s-]+"
_SEASONS = {"spring": (3, 5), "summer": (6, 8), "autumn": (9, 11), "fall": (9, 11), "winter": (12, 2)}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
_UNIT_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}

_ABSOLUTE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?P<year>(?:19|20)\d\d)-(?P<number>\d{2})-(?P<day>\d{2})\b",
        rf"\b{_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s*{_YEAR})?",
        rf"\b{_MONTH}\s+{_DAY}\b(?!:)(?:,?\s*{_YEAR})?",
        rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR}",
        rf"\b{_BEFORE}{_MONTH}",
        rf"\b(?P<season>{'|'.join(_SEASONS)})\s+(?:of\s+)?{_YEAR}",
        rf"\b{_YEAR}",
    )
]
_RELATIVE = re.compile(
    r"\b(?:(?P<day>today|tonight|yesterday)"
    rf"|(?P<which>this|last|past)\s+(?:(?P<unit>week|month|year)|(?P<weekday>{'|'.join(_WEEKDAYS)}|weekend)"
    rf"|(?P<season>{'|'.join(_SEASONS)}))"
    rf"|(?P<count>\d{{1,3}}|{'|'.join(_NUMBERS)})\s+(?P<units>day|week|month|year)s?\s+ago)\b",
    re.IGNORECASE,
)

AFTER_DAYS, BEFORE_DAYS = 10.0, 4.0
"""Days after and before a period by which closeness falls to 1/e: what happened is told later, what is planned
earlier."""


@dataclass(frozen=True)
class Period:
    """From ``begin`` up to, not including, ``end``; aware datetimes."""

    begin: datetime
    end: datetime


@dataclass(frozen=True)
class TimeExpression:
    """A time named in a text.

    Attributes:
        span: where it stands.
        periods: what it can mean: one period, or one in each year for "in May".
        relative: whether it is told from the time of asking ("last week").
    """

    span: tuple[int, int]
    periods: tuple[Period, ...]
    relative: bool = False


def find_times(text: str, now: datetime, years: Iterable[int]) -> list[TimeExpression]:
    """The times that an English text names, in their order.

    Args:
        text: a question.
        now: when it is asked; aware.
        years: which years a month or a day without one can be of.

    Examples:
        >>> now = datetime(2024, 3, 5, tzinfo=timezone.utc)
        >>> [found] = find_times("What did she paint on 7 May 2023?", now, ())
        >>> found.periods[0].begin.date().isoformat(), found.periods[0].end.date().isoformat()
        ('2023-05-07', '2023-05-08')
        >>> [p.begin.year for p in find_times("Where was he in June?", now, (2022, 2023))[0].periods]
        [2022, 2023]
        >>> find_times("What may I do?", now, (2022, 2023))
        []
    """
    found: list[TimeExpression] = []
    taken = [False] * len(text)
    years = sorted(set(years))

    def take(match: re.Match[str], periods: Sequence[Period], relative: bool = False) -> None:
        if periods and not any(taken[match.start() : match.end()]):
            taken[match.start() : match.end()] = [True] * (match.end() - match.start())
            found.append(TimeExpression(match.span(), tuple(periods), relative))

    for pattern in _ABSOLUTE:
        for match in pattern.finditer(text):
            take(match, _absolute(match, years))
    for match in _RELATIVE.finditer(text):
        take(match, _relative(match, now), relative=True)
    return sorted(found, key=lambda expression: expression.span)


def closeness(periods: Iterable[Period], times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How near each time lies to the nearest of the periods: 1 inside, falling to 0 with the distance.

    Args:
        periods: of one question.
        times: ``[n]`` POSIX seconds; NaN where there is none, which is near to nothing.

    Returns:
        ``[n]``, 0..1.
    """
    best = np.zeros(len(times))
    for period in periods:
        late = (times - period.end.timestamp()) / 86_400
        early = (period.begin.timestamp() - times) / 86_400
        score = np.exp(-np.maximum(0, late) / AFTER_DAYS) * np.exp(-np.maximum(0, early) / BEFORE_DAYS)
        best = np.maximum(best, np.nan_to_num(score))
    return best


def _absolute(match: re.Match[str], years: Sequence[int]) -> list[Period]:
    parts = match.groupdict()
    chosen = [int(parts["year"])] if parts.get("year") else years
    if parts.get("season"):
        return [_season(parts["season"], year) for year in chosen]
    if parts.get("number"):
        month = int(parts["number"])
    elif parts.get("month"):
        word = parts["month"]
        if word == "may" and not parts.get("day") and not parts.get("year"):
            return []
        month = _MONTHS.index(word[:3].lower()) + 1
    else:
        return [Period(_at(year, 1, 1), _at(year + 1, 1, 1)) for year in chosen]
    if not 1 <= month <= 12:
        return []
    if parts.get("day"):
        day = int(parts["day"])
        days = [_at(y, month, day) for y in chosen if 1 <= day <= calendar.monthrange(y, month)[1]]
        return [Period(begin, begin + timedelta(days=1)) for begin in days]
    return [Period(_at(year, month, 1), _next_month(year, month)) for year in chosen]


def _relative(match: re.Match[str], now: datetime) -> list[Period]:
    parts = match.groupdict()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    day = timedelta(days=1)
    if parts["day"]:
        begin = today - day if parts["day"].lower() == "yesterday" else today
        return [Period(begin, begin + day)]
    if parts["count"]:
        word = parts["count"].lower()
        n = _NUMBERS.get(word) or int(word)
        size = _UNIT_DAYS[parts["units"].lower()]
        # "two weeks ago" is said of days around that day
        slack = day * (size // 2 if size > 1 else 0)
        try:
            begin = today - day * n * size
            return [Period(begin - slack, begin + slack + day)]
        except OverflowError:
            return []
    this = parts["which"].lower() == "this"
    if parts["unit"]:
        return [_unit(parts["unit"].lower(), this, today)]
    if parts["season"]:
        return [_last_season(parts["season"].lower(), this, today)]
    word = parts["weekday"].lower()
    number = 5 if word == "weekend" else _WEEKDAYS.index(word)
    back = (today.weekday() - number) % 7 or (0 if this else 7)
    begin = today - day * back
    return [Period(begin, begin + day * (2 if word == "weekend" else 1))]


def _unit(unit: str, this: bool, today: datetime) -> Period:
    if unit == "week":
        begin = today - timedelta(days=today.weekday() + (0 if this else 7))
        return Period(begin, begin + timedelta(days=7))
    if unit == "year":
        year = today.year - (0 if this else 1)
        return Period(_at(year, 1, 1), _at(year + 1, 1, 1))
    first = today.replace(day=1)
    return (
        Period(first, _next_month(first.year, first.month)) if this else Period(_month_before(first), first)
    )


def _last_season(name: str, this: bool, today: datetime) -> Period:
    seasons = [_season(name, year) for year in (today.year, today.year - 1, today.year - 2)]
    return next((s for s in seasons if s.begin <= today and (this or s.end <= today)), seasons[-1])


def _season(name: str, year: int) -> Period:
    first, last = _SEASONS[name.lower()]
    return Period(_at(year, first, 1), _next_month(year + (last < first), last))


def _at(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=timezone.utc)


def _next_month(year: int, month: int) -> datetime:
    return _at(year + month // 12, month % 12 + 1, 1)


def _month_before(first: datetime) -> datetime:
    return (first - timedelta(days=1)).replace(day=1)
