"""Time ranges, zones and buckets: from what a person asks for to half-open UTC instants, and back to labels.

All instants are integers, microseconds since 1970 UTC; *local* microseconds are the same count on the wall
clock of a zone. Everything rests on one question, which UTC offset is in force from when on, so that a store
can bucket with integer arithmetic: `offset_changes` gives the offsets, `bucket_number` says what to compute,
`bucket_label` turns the number into the value that is shown.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from usagekit.errors import QueryError
from usagekit.event import from_microseconds, to_microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["BUCKETS", "bucket_label", "bucket_number", "bucket_value", "offset_changes", "shown", "time_zone"]

BUCKETS = ("hour", "day", "week", "month")
"""The time buckets, in the zone `tz` of the query; each is also a dimension to group and filter by."""

Span = tuple[int, int]
"""A half-open range of UTC microseconds."""

_SECOND_US = 1_000_000
_HOUR_US = 3_600 * _SECOND_US
_DAY_US = 24 * _HOUR_US
_EPOCH_DAY = date(1970, 1, 1)

# Far enough inside what datetime can hold that any zone's local time, and three days around it, still fit.
_FIRST_US = to_microseconds(datetime(1, 1, 8, tzinfo=UTC))
_LAST_US = to_microseconds(datetime(9999, 12, 24, tzinfo=UTC))

_ZONE_NAME = re.compile(r"(?!right/|posix/)[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*")
_PERIOD = re.compile(r"([0-9]{1,9})([hd])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WEEK = re.compile(r"([0-9]{4})-W([0-9]{2})")
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")


def shown(value: object) -> str:
    """Give `value` as it may stand in an error message: its repr, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def time_zone(name: object) -> tzinfo:
    """Give the time zone of an IANA name; `"UTC"` needs no zone data on the system. Raises `QueryError`."""
    if name == "UTC":
        return UTC
    if isinstance(name, str) and len(name) < 80 and _ZONE_NAME.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown, no zone file, or a directory such as "Europe"
            pass
    raise QueryError(
        f"unknown time zone {shown(name)}; use an IANA name such as 'UTC' or 'Europe/Berlin' "
        "(where the system has no zone data: pip install tzdata)"
    )


def offset_changes(tz: str, start_us: int, end_us: int) -> list[tuple[int, int]]:
    """Give the UTC offsets, in seconds, that are in force from each instant on in `[start_us, end_us)`.

    The first entry is `(start_us, offset there)`, the others are the changes after it, ascending. Years are
    cached; ask for the range of the data rather than for all time. Raises `QueryError` for an unknown zone.
    """
    zone = time_zone(tz)
    changes = [(start_us, _offset(zone, start_us))]
    if zone is not UTC:
        for year in range(_year(start_us), _year(end_us) + 1):
            changes.extend(change for change in _changes_in(tz, year) if start_us < change[0] < end_us)
    return changes


def bucket_number(bucket: str, time_us: int, offset_seconds: int) -> int:
    """Give the integer a store groups by: the bucket of an instant where the UTC offset is `offset_seconds`.

    With `local = time_us + offset_seconds * 1_000_000` and floor division:
    hour is `local // 3_600_000_000`, day is `local // 86_400_000_000`, week is `(day + 3) // 7`, and month is
    year * 12 + month (1 to 12). Hours are told apart by number *and* offset, the others by number alone.
    """
    local_us = time_us + offset_seconds * _SECOND_US
    if bucket == "hour":
        return local_us // _HOUR_US
    day = local_us // _DAY_US
    if bucket == "day":
        return day
    if bucket == "week":
        return (day + 3) // 7
    on = _EPOCH_DAY + timedelta(days=day)
    return on.year * 12 + on.month


@lru_cache(maxsize=65_536)
def bucket_label(bucket: str, number: int, offset_seconds: int = 0) -> str:
    """Give the ISO value of a bucket from its `bucket_number`; only an hour needs the offset."""
    if bucket == "hour":
        zone = timezone(timedelta(seconds=offset_seconds))
        return (datetime(1970, 1, 1, tzinfo=zone) + timedelta(hours=number)).isoformat()
    if bucket == "day":
        return (_EPOCH_DAY + timedelta(days=number)).isoformat()
    if bucket == "week":
        year, week, _ = (_EPOCH_DAY + timedelta(days=7 * number - 3)).isocalendar()
        return f"{year:04}-W{week:02}"
    year, month = divmod(number - 1, 12)
    return f"{year:04}-{month + 1:02}"


def bucket_value(bucket: str, time: datetime, zone: tzinfo) -> str:
    """Give the ISO value of the bucket an aware `time` falls into, by the calendar alone."""
    local = time.astimezone(zone)
    if bucket == "hour":
        # A fixed offset: after a half-hour change the beginning of the hour had another one.
        fixed = timezone(local.utcoffset() or timedelta(0))
        return local.replace(minute=0, second=0, microsecond=0, tzinfo=fixed).isoformat()
    if bucket == "day":
        return local.date().isoformat()
    if bucket == "week":
        year, week, _ = local.isocalendar()
        return f"{year:04}-W{week:02}"
    return f"{local.year:04}-{local.month:02}"


def resolve_range(
    *, period: object, days: object, start: object, end: object, tz: str, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """Give the half-open range, aware UTC or None for open, of what was asked. Raises `QueryError`."""
    given = [
        name
        for name, value in (("period", period), ("days", days), ("start/end", start if end is None else end))
        if value is not None
    ]
    if len(given) > 1:
        raise QueryError(f"{' and '.join(given)} exclude each other; give period, days, or start and end")
    if now.utcoffset() is None:
        raise QueryError("now must be an aware datetime, such as datetime.now(UTC)")
    try:
        if period is not None:
            return _period(period, now)
        if days is not None:
            return _days(days, tz, now)
    except OverflowError:
        raise QueryError(f"{given[0]}={shown(period or days)} reaches back beyond the year 1") from None
    first, last = instant("start", start, tz), instant("end", end, tz)
    if first is not None and last is not None and first >= last:
        raise QueryError(
            f"start {shown(start)} is not before end {shown(end)}; the range is half-open, so one day is "
            "start='2026-11-20', end='2026-11-21'"
        )
    return first, last


def bucket_spans(bucket: str, value: object, tz: str) -> list[Span]:
    """Give exactly the instants whose bucket is `value`, as ascending spans. Raises `QueryError`.

    Usually one span; two where the clock went back across the bucket's edge, none for a day the zone skipped.
    """
    if bucket == "hour":
        return _hour_spans(value, tz)
    first, days = _BUCKET_DAYS[bucket](value)
    return list(_wall_spans(tz, _local_us(first), _local_us(first) + days * _DAY_US))


def merged(spans: Iterable[Span]) -> list[Span]:
    """Give the union of spans: ascending, disjoint, adjacent ones joined."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif start < end:
            result.append((start, end))
    return result


def intersected(some: list[Span], others: list[Span]) -> list[Span]:
    """Give the instants in both of two unions, each ascending and disjoint, as `merged` gives them."""
    result = []
    one, other = 0, 0
    while one < len(some) and other < len(others):
        start, end = max(some[one][0], others[other][0]), min(some[one][1], others[other][1])
        if start < end:
            result.append((start, end))
        if some[one][1] <= others[other][1]:
            one += 1
        else:
            other += 1
    return result


def _offset(zone: tzinfo, time_us: int) -> int:
    inside = min(max(time_us, _FIRST_US), _LAST_US)
    offset = from_microseconds(inside).astimezone(zone).utcoffset()
    return 0 if offset is None else offset.days * 86_400 + offset.seconds


def _year(time_us: int) -> int:
    return from_microseconds(min(max(time_us, _FIRST_US), _LAST_US)).year


@lru_cache(maxsize=8_192)
def _changes_in(tz: str, year: int) -> tuple[tuple[int, int], ...]:
    """Give the offset changes of one UTC year, found by looking at every day: zones do not list theirs."""
    zone = time_zone(tz)
    start = max(_FIRST_US, _local_us(date(year, 1, 1)))
    end = _LAST_US if year == 9999 else _local_us(date(year + 1, 1, 1))
    changes = []
    before = _offset(zone, start - _SECOND_US)
    for day_end in range(start + _DAY_US - _SECOND_US, end, _DAY_US):
        after = _offset(zone, day_end)
        low = day_end - _DAY_US
        while before != after:
            low, before = _next_change(zone, low, day_end)
            changes.append((low, before))
    return tuple(changes)


def _next_change(zone: tzinfo, low: int, high: int) -> tuple[int, int]:
    """Give an instant in (low, high], on the second, from which on another offset holds than at `low`."""
    before = _offset(zone, low)
    while high - low > _SECOND_US:
        middle = low + (high - low) // _SECOND_US // 2 * _SECOND_US
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high, _offset(zone, high)


def _local_us(day: date) -> int:
    return (day - _EPOCH_DAY).days * _DAY_US


def _segments(tz: str, start_us: int, end_us: int) -> Iterator[tuple[int, int, int]]:
    """Yield (from, until, offset in seconds) over a range."""
    changes = offset_changes(tz, start_us, end_us)
    ends = [start for start, _ in changes[1:]] + [end_us]
    for (start, offset), end in zip(changes, ends, strict=True):
        yield start, end, offset


def _wall_spans(tz: str, local_start: int, local_end: int, only_offset: int | None = None) -> Iterator[Span]:
    """Yield the instants at which the zone's wall clock shows a time in [local_start, local_end)."""
    if local_start < _FIRST_US or local_end > _LAST_US:
        return  # events lie between 1970 and 9999
    for start, end, offset in _segments(tz, local_start - _DAY_US, local_end + _DAY_US):
        first = max(start, local_start - offset * _SECOND_US)
        after = min(end, local_end - offset * _SECOND_US)
        if first < after and only_offset in {None, offset}:
            yield first, after


def _day_start(tz: str, day: date) -> datetime:
    """Give the first instant at which the zone's wall clock shows `day` or later.

    Midnight may not exist (clocks going forward at midnight) or come twice: then it is the first instant of
    the day. A day the zone skipped begins where it would have.
    """
    midnight = min(max(_local_us(day), _FIRST_US), _LAST_US)
    for start, end, offset in _segments(tz, midnight - _DAY_US, midnight + 3 * _DAY_US):
        first = max(start, midnight - offset * _SECOND_US)
        if first < end:
            return from_microseconds(first)
    raise AssertionError(f"{tz} has no {day}")  # pragma: no cover  offsets are shorter than a day


def _period(period: object, now: datetime) -> tuple[datetime, datetime]:
    match = _PERIOD.fullmatch(period) if isinstance(period, str) else None
    if match is None or int(match[1]) == 0:
        raise QueryError(f"bad period {shown(period)}; use hours or days back from now: '24h', '7d'")
    number = int(match[1])
    back = timedelta(hours=number) if match[2] == "h" else timedelta(days=number)
    now = now.astimezone(UTC)
    return now - back, now


def _days(days: object, tz: str, now: datetime) -> tuple[datetime, datetime]:
    if not isinstance(days, int) or isinstance(days, bool) or days < 1:
        raise QueryError(f"bad days {shown(days)}; use a whole number of calendar days, 1 = today")
    today = now.astimezone(time_zone(tz)).date()
    return _day_start(tz, today - timedelta(days=days - 1)), _day_start(tz, today + timedelta(days=1))


def instant(name: str, value: object, tz: str) -> datetime | None:
    """Give the instant that a date in `tz`, or a time with an offset, means; None stays None. Raises `QueryError`."""
    if value is None:
        return None
    if isinstance(value, str):
        value = _parsed(name, value)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise QueryError(
                f"{name} {shown(str(value))} has no UTC offset, so it is unclear which instant it means; "
                "give a date, or an offset: '2026-11-20T13:00:00+01:00'"
            )
        return from_microseconds(min(max(to_microseconds(value), _FIRST_US), _LAST_US))
    if isinstance(value, date):
        return _day_start(tz, value)
    raise QueryError(f"bad {name} {shown(value)}; use a date, 'YYYY-MM-DD', or an aware datetime")


def _parsed(name: str, value: str) -> date:
    try:
        return date.fromisoformat(value) if _DATE.fullmatch(value) else datetime.fromisoformat(value)
    except ValueError:
        raise QueryError(
            f"bad {name} {shown(value)}; use 'YYYY-MM-DD' or a time with an offset: '2026-11-20T13:00:00Z'"
        ) from None


def _hour_spans(value: object, tz: str) -> list[Span]:
    hour = _parsed("hour", value) if isinstance(value, str) else value
    offset = hour.utcoffset() if isinstance(hour, datetime) else None
    if not isinstance(hour, datetime) or offset is None or hour != hour.replace(minute=0, second=0, microsecond=0):
        raise QueryError(f"bad hour {shown(value)}; use its beginning with an offset: '2026-11-20T13:00:00+01:00'")
    local = to_microseconds(hour.replace(tzinfo=UTC))
    seconds = offset.days * 86_400 + offset.seconds
    spans = list(_wall_spans(tz, local, local + _HOUR_US, seconds))
    if not spans:
        raise QueryError(f"hour {shown(value)} does not exist in {tz}: its UTC offset is another then")
    return spans


def _day_days(value: object) -> tuple[date, int]:
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            value = date.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            return value, 1
    except ValueError:
        pass
    raise QueryError(f"bad day {shown(value)}; use a date: '2026-11-20'")


def _week_days(value: object) -> tuple[date, int]:
    match = _WEEK.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is not None:
            return date.fromisocalendar(int(match[1]), int(match[2]), 1), 7
    except ValueError:
        pass
    raise QueryError(f"bad week {shown(value)}; use an ISO week: '2026-W47'")


def _month_days(value: object) -> tuple[date, int]:
    match = _MONTH.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is not None:
            year, month = int(match[1]), int(match[2])
            return date(year, month, 1), monthrange(year, month)[1]
    except ValueError:
        pass
    raise QueryError(f"bad month {shown(value)}; use year and month: '2026-11'")


_BUCKET_DAYS = {"day": _day_days, "week": _week_days, "month": _month_days}
