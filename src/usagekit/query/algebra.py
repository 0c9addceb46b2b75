"""The closed algebra of questions: its names, and `UsageQuery`, a question that has been checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from usagekit import _clean
from usagekit.errors import QueryError
from usagekit.event import from_microseconds, to_microseconds
from usagekit.query.periods import (
    BUCKETS,
    bucket_spans,
    intersected,
    merged,
    resolve_range,
    shown,
    time_zone,
)

if TYPE_CHECKING:
    from datetime import date, tzinfo

    from usagekit.event import UsageEvent

__all__ = ["BUCKETS", "DIMENSIONS", "MEASURES", "UsageQuery"]

DIMENSIONS = (
    "kind",
    "user",
    "org",
    "event",
    "route",
    "status",
    "status_class",
    "provider",
    "model",
    "cost_source",
    "aborted",
)
"""The dimensions every event has, besides the time `BUCKETS` and the app's own declared ones.

`status` is an int, `aborted` a bool, all others are strings, `""` where unknown. `status_class` is `"2xx"`
and the like, `"none"` for status 0.
"""

MEASURES = (
    "events",
    "succeeded",
    "failed",
    "success_rate",
    "users",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "total_tokens",
    "cost_usd",
    "unpriced",
    "response_bytes",
    "quantity",
    "latency_ms_avg",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "latency_ms_max",
    "first_token_ms_p50",
    "last_seen",
)
"""The measures, in the order in which all of them are shown."""

ORIGINS = ("direct", "backfill")

_NO_FILTERS: Mapping[str, tuple[str | int | bool, ...]] = MappingProxyType({})
_EVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_LONGEST_SECONDS = 10**9  # what clocks and locks can wait for
_STATUS_CLASS = re.compile(r"[0-9]xx|none")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """One checked question, as every reader gets it.

    Immutable, hashable, picklable. Make it with `UsageQuery.build`, which checks and resolves everything: a
    reader only has to understand dimension names, equality and UTC instants. What a name in `by` or `where`
    is: one of `BUCKETS` (only in `by`), one of `DIMENSIONS`, else an attribute the app declared.

    Attributes:
        by: dimensions and buckets to group by, in the order of the rows' keys; `()` = one row of everything.
        measures: what to show, a part of `MEASURES`.
        start: aware UTC, inclusive; None = open.
        end: aware UTC, exclusive; None = open.
        tz: the IANA name of the zone for buckets and shown times.
        where: allowed values by dimension, of the dimension's own type (`status` int, `aborted` bool, else
            str), cleaned as events are. An empty tuple allows nothing. Never a time bucket: see `spans`.
        spans: the instants that filters on time buckets allow, within start and end: half-open, aware UTC,
            ascending, disjoint; `()` allows nothing, None = there is no such filter.
        order: a measure or a dimension of `by`, with `-` in front for descending; None = the default order.
        limit: how many rows at most; None = all.
        origin: `"direct"` or `"backfill"`.
        timeout: seconds that the answer may take, see `usagekit.query.Budget`; None = as long as it takes.
    """

    by: tuple[str, ...] = ()
    measures: tuple[str, ...] = MEASURES
    start: datetime | None = None
    end: datetime | None = None
    tz: str = "UTC"
    where: Mapping[str, tuple[str | int | bool, ...]] = field(default_factory=lambda: _NO_FILTERS)
    spans: tuple[tuple[datetime, datetime], ...] | None = None
    order: str | None = None
    limit: int | None = None
    origin: str = "direct"
    timeout: float | None = None

    @classmethod
    def build(
        cls,
        *,
        by: str | Iterable[str] = (),
        measures: str | Iterable[str] | None = None,
        period: str | None = None,
        start: date | str | None = None,
        end: date | str | None = None,
        days: int | None = None,
        tz: str = "UTC",
        where: Mapping[str, object] | None = None,
        order: str | None = None,
        limit: int | None = None,
        origin: str = "direct",
        timeout: float | None = None,
        dimensions: Iterable[str] = (),
        now: datetime | None = None,
    ) -> UsageQuery:
        """Check what `usage` was asked, with the same options, and resolve it; raises `QueryError`.

        `dimensions` are the names the app declared, allowed besides the built-in ones. `now` is aware, and
        what `period` and `days` count back from; None = the clock.
        """
        allowed = _allowed(dimensions)
        keys = _names("by", by)
        for name in keys:
            _check_dimension(name, allowed)
        time_zone(tz)
        clock = datetime.now(UTC) if now is None else now
        first, last = resolve_range(period=period, days=days, start=start, end=end, tz=tz, now=clock)
        filters, spans = _filters(where, allowed, tz)
        _check_order(order, keys)
        _check_limit(limit)
        _check_timeout(timeout)
        if origin not in ORIGINS:
            raise QueryError(f"unknown origin {shown(origin)}; use 'direct' (recorded here) or 'backfill'")
        return cls(
            by=keys,
            measures=_measures(measures),
            start=first,
            end=last,
            tz=tz,
            where=MappingProxyType(filters),
            spans=_clipped(spans, first, last),
            order=order,
            limit=limit,
            origin=origin,
            timeout=timeout,
        )

    @property
    def zone(self) -> tzinfo:
        """The time zone that `tz` names."""
        return time_zone(self.tz)

    @property
    def order_by(self) -> tuple[str, bool] | None:
        """The name in `order` and whether it is descending; None for the default order."""
        return None if self.order is None else (self.order.removeprefix("-"), self.order.startswith("-"))

    @property
    def measures_needed(self) -> tuple[str, ...]:
        """The measures to compute: those shown, and what the order needs."""
        name = "events" if self.order_by is None else self.order_by[0]
        return self.measures if name in self.measures or name not in MEASURES else (*self.measures, name)

    @property
    def windows_us(self) -> tuple[tuple[int | None, int | None], ...]:
        """All that is asked about time: half-open windows in microseconds since 1970 UTC, None = open.

        Ascending and disjoint; an event matches where it lies in one of them, so `()` matches nothing.
        """
        if self.spans is not None:
            return tuple((to_microseconds(start), to_microseconds(end)) for start, end in self.spans)
        start = None if self.start is None else to_microseconds(self.start)
        return ((start, None if self.end is None else to_microseconds(self.end)),)

    def __hash__(self) -> int:
        # The keys alone: equal mappings may differ in order.
        return hash((self.by, self.measures, self.start, self.end, self.order, frozenset(self.where)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle.
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"where": dict(self.where)}
        return _rebuilt, (values,)


def dimension_value(event: UsageEvent, name: str) -> str | int | bool:
    """Give an event's value of one of `DIMENSIONS` or of an attribute, `""` where it has none."""
    if name == "status_class":
        return f"{event.status // 100}xx" if event.status else "none"
    if name in DIMENSIONS:
        value: str | int | bool = getattr(event, name)
        return value
    return event.attributes.get(name, "")


def _rebuilt(values: dict[str, Any]) -> UsageQuery:
    return UsageQuery(**values | {"where": MappingProxyType(values["where"])})


def _allowed(dimensions: Iterable[str]) -> tuple[str, ...]:
    # A declared name that a measure has too would overwrite it in the rows.
    return (*DIMENSIONS, *BUCKETS, *(name for name in dimensions if name not in MEASURES))


def _names(option: str, given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
        raise QueryError(f"bad {option} {shown(given)}; use a name or a list of names")
    names = tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise QueryError(f"bad name {shown(name)} in {option}; names are strings")
    return tuple(dict.fromkeys(names))


def _measures(given: object) -> tuple[str, ...]:
    names = MEASURES if given is None else _names("measures", given)
    for name in names:
        if name not in MEASURES:
            raise QueryError(f"unknown measure {shown(name)}; use one of {', '.join(MEASURES)}")
    return names


def _check_dimension(name: object, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise QueryError(
            f"unknown dimension {shown(name)}; use one of {', '.join(allowed)}, "
            f"or declare it: Recorder(dimensions=[{shown(name)}])"
        )


def _check_order(order: object, keys: tuple[str, ...]) -> None:
    if order is None:
        return
    name = order.removeprefix("-") if isinstance(order, str) else order
    if name not in MEASURES and name not in keys:
        choice = "a measure" if not keys else f"{', '.join(keys)} or a measure"
        raise QueryError(
            f"cannot order by {shown(order)}; use {choice}, with '-' in front for descending; "
            f"measures are {', '.join(MEASURES)}"
        )


def _check_limit(limit: object) -> None:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise QueryError(f"bad limit {shown(limit)}; use a whole number from 1 on, or None for all rows")


def _check_timeout(timeout: object) -> None:
    if timeout is None:
        return
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= _LONGEST_SECONDS:  # type: ignore[operator]
        raise QueryError(f"bad timeout {shown(timeout)}; use seconds, more than 0, or None for no time budget")


def _filters(
    where: object, allowed: tuple[str, ...], tz: str
) -> tuple[dict[str, tuple[str | int | bool, ...]], list[tuple[int, int]] | None]:
    """Give the filters on dimensions, and the spans that those on buckets allow (None: no such filter)."""
    if where is None:
        return {}, None
    if not isinstance(where, Mapping):
        raise QueryError(f"bad where {shown(where)}; use a mapping: where={{'org': 'org_xyz'}}")
    filters: dict[str, tuple[str | int | bool, ...]] = {}
    spans: list[tuple[int, int]] | None = None
    for name, given in where.items():
        _check_dimension(name, allowed)
        values = _values(name, given)
        if name in BUCKETS:
            union = merged(span for value in values for span in bucket_spans(name, value, tz))
            spans = union if spans is None else intersected(spans, union)
        else:
            filters[name] = tuple(dict.fromkeys(_filter_value(name, value) for value in values))
    return filters, spans


def values_of(given: object) -> tuple[object, ...]:
    """Give the values that a filter was given: those of a collection, or the one."""
    # Only real collections are lists of values: an id may be any object, even an iterable one.
    many = isinstance(given, (list, tuple, AbstractSet, ValuesView, Iterator))
    return tuple(given) if many else (given,)  # type: ignore[arg-type]


def _values(name: str, given: object) -> tuple[object, ...]:
    values = values_of(given)
    if any(value is None for value in values):
        raise QueryError(f"where[{name!r}] is None; leave the filter out, or use '' for what is unknown")
    return values


def _filter_value(name: str, value: object) -> str | int | bool:
    if name == "status":
        return _status(value)
    if name == "status_class":
        if isinstance(value, str) and _STATUS_CLASS.fullmatch(value.lower()):
            return value.lower()
        raise QueryError(f"bad status_class {shown(value)}; use '2xx' and the like, or 'none'")
    if name == "aborted":
        if isinstance(value, bool):
            return value
        flag = _FLAGS.get(str(value).lower()) if isinstance(value, (str, int)) else None
        if flag is None:
            raise QueryError(f"bad aborted {shown(value)}; use true or false")
        return flag
    return _clean.dimension_text(name, value)


def _status(value: object) -> int:
    digits = isinstance(value, str) and len(value) < 10 and value.isascii() and value.isdigit()
    if digits or (isinstance(value, int) and not isinstance(value, bool)):
        return _clean.whole(value, _clean.STATUS_LIMIT)
    raise QueryError(f"bad status {shown(value)}; use a whole number, 0 = not HTTP or unknown")


def _clipped(
    spans: list[tuple[int, int]] | None, start: datetime | None, end: datetime | None
) -> tuple[tuple[datetime, datetime], ...] | None:
    if spans is None:
        return None
    bounds = [(_EVER[0] if start is None else start, _EVER[1] if end is None else end)]
    asked = [(to_microseconds(first), to_microseconds(after)) for first, after in bounds]
    left = intersected(spans, asked)
    return tuple((from_microseconds(first), from_microseconds(after)) for first, after in left)
