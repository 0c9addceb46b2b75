"""`UsageReport`: the answer to a question, in order, and as CSV and JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from usagekit.event import to_microseconds
from usagekit.query.aggregate import Aggregate, seen_at
from usagekit.query.algebra import MEASURES, dimension_value
from usagekit.query.budget import Budget
from usagekit.query.periods import BUCKETS, bucket_value
from usagekit.query.text import csv_lines, json_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import tzinfo

    from usagekit.event import UsageEvent
    from usagekit.query.algebra import UsageQuery

__all__ = ["UsageReport", "empty_report"]


class Measured(Protocol):
    """What was counted of one group, such as an `Aggregate`."""

    @property
    def last_seen_us(self) -> int | None:
        """The latest time, microseconds since 1970 UTC; None where there is no event."""

    def measure(self, name: str, zone: tzinfo) -> Any:
        """Give the value of a measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """The answer to one `UsageQuery`; a plain value that holds no connection and stays as it is.

    Attributes:
        rows: one dict per group, keys in the order of `query.by` and then `query.measures`. Dimensions are
            str, but `status` is an int and `aborted` a bool; counts are int, `cost_usd` is a Decimal,
            `success_rate`, `quantity` and milliseconds are floats, `last_seen` is an ISO 8601 string in the
            zone of the query. None = not known.
        totals: the measures over everything that matched, before `query.limit`.
        groups: how many rows there are without `query.limit`: more than `rows` has where it cut them.
        exact: whether every event was counted; False where the source samples.
        source: the name of the backend that answered, `"sqlite"`, and after a `+` each of the rollups that had a part.
        complete_from: aware; events before it may be missing because they were purged; None = nothing is.
        query: the question.
    """

    rows: list[dict[str, Any]]
    totals: dict[str, Any]
    groups: int
    exact: bool
    source: str
    complete_from: datetime | None
    query: UsageQuery

    @classmethod
    def of_events(
        cls,
        query: UsageQuery,
        events: Iterable[UsageEvent],
        *,
        source: str,
        exact: bool,
        complete_from: datetime | None = None,
    ) -> UsageReport:
        """Answer by looking at every event, for a reader that keeps them as they are.

        Filters, times, zones and the time budget are those of the question. With `origin="backfill"` nothing matches:
        these are events that the app recorded.

        Args:
            query: the question.
            events: in any order, each once.
            source: as the attribute.
            exact: as the attribute.
            complete_from: as the attribute.

        Raises:
            QueryTimeout: that took longer than `query.timeout`.
        """
        budget, zone, windows = Budget(query), query.zone, query.windows_us
        totals, groups = Aggregate(), defaultdict[tuple[Any, ...], Aggregate](Aggregate)
        for event in events if query.origin == "direct" else ():
            budget.check()
            if _matches(event, query, windows):
                totals.add(event)
                groups[tuple(_value(event, name, zone) for name in query.by)].add(event)
        budget.check()
        return cls.build(query, groups.items(), totals, source=source, exact=exact, complete_from=complete_from)

    @classmethod
    def build(
        cls,
        query: UsageQuery,
        groups: Iterable[tuple[tuple[Any, ...], Measured]],
        totals: Measured,
        *,
        source: str,
        exact: bool,
        complete_from: datetime | None = None,
    ) -> UsageReport:
        """Order, limit and show what a reader added up.

        Args:
            query: the question.
            groups: for each distinct key, in any order, the values of `query.by` and what was counted, an
                `Aggregate` or the like. Not looked at where `query.by` is empty: then the one row is the totals.
            totals: what was counted over all groups.
            source: as the attribute.
            exact: as the attribute.
            complete_from: as the attribute.
        """
        zone = query.zone
        total = {name: totals.measure(name, zone) for name in query.measures}
        if not query.by:
            return cls.of_columns(query, [], {}, total, source=source, exact=exact, complete_from=complete_from)
        found = list(groups)
        keys = [key for key, _ in found]

        def column(name: str, chosen: Iterable[int]) -> list[Any]:
            if name == "last_seen":
                return [found[n][1].last_seen_us for n in chosen]
            return [found[n][1].measure(name, zone) for n in chosen]

        # A percentile takes a while: only for the rows that are shown.
        places = _order(query, keys, {name: column(name, range(len(keys))) for name in _deciding(query)})
        places = places[: query.limit]
        return cls.of_columns(
            query,
            [keys[n] for n in places],
            {name: column(name, places) for name in query.measures_needed},
            total,
            source=source,
            exact=exact,
            complete_from=complete_from,
            groups=len(keys),
        )

    @classmethod
    def of_columns(
        cls,
        query: UsageQuery,
        keys: Sequence[tuple[Any, ...]],
        columns: Mapping[str, Sequence[Any]],
        totals: dict[str, Any],
        *,
        source: str,
        exact: bool,
        complete_from: datetime | None = None,
        groups: int | None = None,
    ) -> UsageReport:
        """Order, limit and show measures that are already known; for many groups faster than `build`.

        Args:
            query: the question.
            keys: for each group, in any order, the values of `query.by`.
            columns: by each of `query.measures_needed`, its values in the same order; of `last_seen` microseconds.
            totals: the measures over all groups, as they are shown.
            source: as the attribute.
            exact: as the attribute.
            complete_from: as the attribute.
            groups: how many there are, where some that the limit leaves out are not among `keys`; None = all are.
        """
        rows, count = [dict(totals)], 1
        if query.by:
            count = len(keys) if groups is None else groups
            rows = _rows(query, keys, columns)
        return cls(
            rows=rows,
            totals=totals,
            groups=count,
            exact=exact,
            source=source,
            complete_from=complete_from,
            query=query,
        )

    def incomplete(self) -> UsageReport:
        """Give the same report, said to be not exact."""
        return replace(self, exact=False)

    def to_csv(self) -> str:
        """Give the rows as CSV (RFC 4180) with a header; None is an empty cell, money plain decimal notation.

        A text that a spreadsheet would run as a formula (it starts with `=`, `+`, `-`, `@`, a tab or a line
        break) gets a `'` in front: https://owasp.org/www-community/attacks/CSV_Injection.
        """
        return "".join(csv_lines((*self.query.by, *self.query.measures), self.rows))

    def to_json(self) -> str:
        """Give the report as one JSON object.

        Its keys are rows, totals, groups, exact, source, complete_from and period (start, end, tz). Money is a
        decimal string without exponent, times are ISO 8601 in the zone of the query.
        """
        period = {"start": self.query.start, "end": self.query.end, "tz": self.query.tz}
        report = {
            "rows": self.rows,
            "totals": self.totals,
            "groups": self.groups,
            "exact": self.exact,
            "source": self.source,
            "complete_from": self.complete_from,
            "period": period,
        }
        return json.dumps(report, default=lambda value: json_value(value, self.query.zone), allow_nan=False)


def empty_report(query: UsageQuery) -> UsageReport:
    """Give the answer where nothing is recorded at all: exact, from the source `"none"`."""
    return UsageReport.build(query, (), Aggregate(), source="none", exact=True)


def _rows(
    query: UsageQuery, keys: Sequence[tuple[Any, ...]], columns: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    order = _order(query, keys, columns)[: query.limit]
    shown: list[Iterable[Any]] = [[keys[n][place] for n in order] for place in range(len(query.by))]
    for name in query.measures:
        values = map(columns[name].__getitem__, order)
        shown.append([seen_at(us, query.zone) for us in values] if name == "last_seen" else values)
    names = (*query.by, *query.measures)
    return [dict(zip(names, values, strict=True)) for values in zip(*shown, strict=True)]


def _deciding(query: UsageQuery) -> tuple[str, ...]:
    """Give the measures that the order needs."""
    name = "events" if query.order_by is None else query.order_by[0]
    return (name,) if name in MEASURES else ()


def _order(query: UsageQuery, keys: Sequence[tuple[Any, ...]], columns: Mapping[str, Sequence[Any]]) -> list[int]:
    """Give the places of the groups, sorted by key first; the sorts after it are stable, so ties stay in key order."""
    order = list(range(len(keys)))
    if "hour" in query.by or any(None in key for key in keys):
        ranks = [[_rank(n, v) for n, v in zip(query.by, key, strict=True)] for key in keys]
        order.sort(key=ranks.__getitem__)
    else:
        # Column by column is several times faster than by whole keys: plain texts and numbers are compared quickly.
        for place in reversed(range(len(query.by))):
            order.sort(key=[key[place] for key in keys].__getitem__)
    if query.order_by is not None:
        name, descending = query.order_by
        return _sorted(order, _order_values(query, name, keys, columns), descending=descending)
    order.sort(key=columns["events"].__getitem__, reverse=True)
    for name in reversed([name for name in query.by if name in BUCKETS]):
        order = _sorted(order, _order_values(query, name, keys, columns), descending=False)
    return order


def _rank(name: str, value: Any) -> tuple[bool, Any]:
    if name == "hour" and value is not None:
        value = datetime.fromisoformat(value)  # as text, 02:00+01:00 would come before 02:00+02:00
    return value is None, value


def _order_values(
    query: UsageQuery, name: str, keys: Sequence[tuple[Any, ...]], columns: Mapping[str, Sequence[Any]]
) -> Sequence[Any]:
    if name in MEASURES:
        return columns[name]
    place = query.by.index(name)
    return [_rank(name, key[place])[1] for key in keys]


def _sorted(order: list[int], values: Sequence[Any], *, descending: bool) -> list[int]:
    """Sort places by their values, None last in both directions; equal ones keep their order."""
    known = [n for n in order if values[n] is not None]
    known.sort(key=values.__getitem__, reverse=descending)
    return known + [n for n in order if values[n] is None] if len(known) < len(order) else known


def _matches(event: UsageEvent, query: UsageQuery, windows: tuple[tuple[int | None, int | None], ...]) -> bool:
    time_us = to_microseconds(event.time)
    return any(
        (start is None or start <= time_us) and (end is None or time_us < end) for start, end in windows
    ) and all(_value(event, name, query.zone) in allowed for name, allowed in query.where.items())


def _value(event: UsageEvent, name: str, zone: tzinfo) -> object:
    return bucket_value(name, event.time, zone) if name in BUCKETS else dimension_value(event, name)
