"""Asking: one question, `usage`, that every recorder and every readable backend answers the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from usagekit.errors import QueryError
from usagekit.query.algebra import BUCKETS, DIMENSIONS, MEASURES, UsageQuery
from usagekit.query.budget import Budget
from usagekit.query.report import UsageReport, empty_report
from usagekit.query.statements import Statement, statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

__all__ = [
    "BUCKETS",
    "DIMENSIONS",
    "MEASURES",
    "Budget",
    "Reader",
    "Statement",
    "UsageQuery",
    "UsageReport",
    "empty_report",
    "statement",
    "usage",
]


class Reader(Protocol):
    """What can be asked: a recorder, a backend that keeps events, or a class of your own.

    A reader may also have `dimensions`, a tuple of the names the app declared. `read` blocks until the answer
    is there; any thread may call it.
    """

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer `query`; `UsageReport.build` does the ordering and showing."""
        ...


def usage(
    source: Reader,
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
) -> UsageReport:
    """Ask `source` who used what, how much, and at which cost.

    Blocks until the answer is there. Raises `QueryError`, which says what is allowed, and `QueryTimeout`.

    Args:
        source: a recorder or a reader.
        by: one dimension or several to group by: of `DIMENSIONS`, of `BUCKETS`, or declared on the recorder.
            Groups without events have no row. Empty: one row of everything.
        measures: of `MEASURES`; None = all.
        period: `"24h"`, `"7d"`: exactly that many hours or 24-hour days back from now, now excluded.
        start: inclusive. A date (or `"YYYY-MM-DD"`) is its first instant in `tz`; else an aware datetime,
            or an ISO string with an offset. None = open.
        end: exclusive; as `start`.
        days: the last so many calendar days of `tz`, today included. Only one of period, days and start/end.
        tz: IANA name of the zone for dates, buckets and shown times.
        where: by dimension or bucket, the value or the list of values to keep; `""` = unknown. An empty list
            keeps nothing.
        order: a measure or a dimension of `by`, `"-cost_usd"` for descending, None last. None = time buckets
            ascending, then most events first. Ties by key.
        limit: how many rows at most; `totals` do not know it.
        origin: `"direct"` = events this app recorded, `"backfill"` = those brought in from elsewhere.
        timeout: seconds that the answer may take; None = as long as it takes. A recorder first imports what waits,
            which takes a second, or `timeout`, at most.
    """
    if not hasattr(source, "read"):
        raise QueryError(f"cannot ask a {type(source).__name__}; give a Recorder or a backend with read()")
    query = UsageQuery.build(
        by=by,
        measures=measures,
        period=period,
        start=start,
        end=end,
        days=days,
        tz=tz,
        where=where,
        order=order,
        limit=limit,
        origin=origin,
        timeout=timeout,
        dimensions=getattr(source, "dimensions", ()),
    )
    return source.read(query)
