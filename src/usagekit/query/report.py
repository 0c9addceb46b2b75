"""`UsageReport`: the answer to a question, in order, and as CSV and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from usagekit.query.aggregate import Aggregate
from usagekit.query.algebra import MEASURES
from usagekit.query.periods import BUCKETS
from usagekit.query.text import csv_lines, json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import tzinfo

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
        rows, count = [dict(total)], 1
        if query.by:
            ordered = _ordered(query, groups)
            count = len(ordered)
            names = (*query.by, *query.measures)
            rows = [
                dict(zip(names, (*key, *[group.measure(name, zone) for name in query.measures]), strict=True))
                for key, group in ordered[: query.limit]
            ]
        return cls(
            rows=rows,
            totals=total,
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


_Group = tuple[tuple[Any, ...], Measured]


def _ordered(query: UsageQuery, groups: Iterable[_Group]) -> list[_Group]:
    """Sort by key first; the sorts after it are stable, so that ties stay in key order."""
    result = list(groups)
    if "hour" in query.by or any(None in key for key, _ in result):
        result.sort(key=lambda group: [_rank(n, v) for n, v in zip(query.by, group[0], strict=True)])
    else:
        result.sort(key=itemgetter(0))
    if query.order_by is not None:
        name, descending = query.order_by
        _sort(result, _sort_value(query, name), descending=descending)
        return result
    zone = query.zone
    result.sort(key=lambda group: group[1].measure("events", zone), reverse=True)
    for name in reversed([name for name in query.by if name in BUCKETS]):
        _sort(result, _sort_value(query, name), descending=False)
    return result


def _rank(name: str, value: Any) -> tuple[bool, Any]:
    if name == "hour" and value is not None:
        value = datetime.fromisoformat(value)  # as text, 02:00+01:00 would come before 02:00+02:00
    return value is None, value


def _sort_value(query: UsageQuery, name: str) -> Callable[[_Group], Any]:
    zone = query.zone
    if name == "last_seen":
        return lambda group: group[1].last_seen_us
    if name in MEASURES:
        return lambda group: group[1].measure(name, zone)
    place = query.by.index(name)
    return lambda group: _rank(name, group[0][place])[1]


def _sort(groups: list[_Group], value: Callable[[_Group], Any], *, descending: bool) -> None:
    """Sort in place by a value, None last in both directions; equal ones keep their order."""
    valued = [(value(group), group) for group in groups]
    known = sorted((pair for pair in valued if pair[0] is not None), key=lambda pair: pair[0], reverse=descending)
    unknown = [pair for pair in valued if pair[0] is None]
    groups[:] = [group for _, group in known + unknown]
