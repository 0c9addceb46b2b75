"""Time buckets of any zone in Analytics Engine's SQL, which knows neither offsets nor calendars of doubles."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from usagekit.event import from_microseconds
from usagekit.query.periods import bucket_label, bucket_spans, bucket_value, offset_changes, time_zone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Buckets"]

_DAY = 86_400  # added to local times, so that none is negative
_SECOND_US = 1_000_000


class Buckets:
    """The buckets of one question.

    Args:
        tz: the zone.
        time: the column that holds seconds since 1970.
        spans: first and last times of the data, ascending; only what happens there is spelled out.
    """

    def __init__(self, tz: str, time: str, spans: Sequence[tuple[float, float]]) -> None:
        self._tz = tz
        self._zone = time_zone(tz)
        self._time = time
        self._spans = [(round(first * _SECOND_US), round(last * _SECOND_US) + 1) for first, last in spans]
        self._offset = self._offsets()

    def key(self, bucket: str) -> tuple[tuple[str, ...], Callable[..., str]]:
        """Give the SQL to group by, in one or two columns, and what makes the bucket's label of their values."""
        if bucket == "month":
            return self._months()
        local = f"({self._time} + {self._offset})"
        if bucket == "hour":
            # Two hours of one number are told apart by their offset, as in the night when clocks go back.
            return (f"floor({local} / 3600)", self._offset), _hour
        if bucket == "day":
            return (f"floor({local} / {_DAY})",), lambda number: bucket_label("day", int(number) - 1)
        return (f"floor(({local} + {2 * _DAY}) / {7 * _DAY})",), lambda number: bucket_label("week", int(number))

    def _offsets(self) -> str:
        """Give the offset in force at a time, a day added to it, as nested conditions."""
        if self._tz == "UTC" or not self._spans:
            return str(_DAY)
        changes: list[tuple[int, int]] = []
        for start, end in self._spans:
            for at, offset in offset_changes(self._tz, start, end):
                if not changes or changes[-1][1] != offset:
                    changes.append((at, offset))
        return _chain(self._time, [(at, str(offset + _DAY)) for at, offset in changes])

    def _months(self) -> tuple[tuple[str, ...], Callable[..., str]]:
        """Give the number of the month among those that have data: each begins where its data does."""
        labels: list[str] = []
        starts: list[tuple[int, str]] = []
        for start, end in self._spans:
            at = start
            while at < end:
                label = bucket_value("month", from_microseconds(at), self._zone)
                if not labels or labels[-1] != label:
                    labels.append(label)
                    starts.append((at, str(len(labels) - 1)))
                at = next(stop for first, stop in bucket_spans("month", label, self._tz) if first <= at < stop)
        return (_chain(self._time, starts),), lambda number: labels[int(number)]


def _hour(number: Any, offset: Any) -> str:
    return bucket_label("hour", int(number) - 24, int(offset) - _DAY)


def _chain(time: str, values: Sequence[tuple[int, str]]) -> str:
    """Give what holds from each instant on, in microseconds, as nested conditions."""
    if not values:
        return "0"
    found = values[-1][1]
    for (_, value), (until, _) in reversed(list(pairwise(values))):
        found = f"if({time} < {until / _SECOND_US!r}, {value}, {found})"
    return found
