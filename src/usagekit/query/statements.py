"""`statement`: what one customer used in one month, line by line, as a bill needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit import _clean
from usagekit.errors import QueryError
from usagekit.query.algebra import UsageQuery
from usagekit.query.periods import shown, time_zone
from usagekit.query.text import csv_lines, json_value

if TYPE_CHECKING:
    from usagekit.query import Reader

__all__ = ["GRACE", "LINES_BY", "STATEMENT_MEASURES", "Statement", "statement"]

LINES_BY = ("route", "model", "event")
"""What the lines of a statement can be by, besides the day."""

STATEMENT_MEASURES = (
    "events",
    "succeeded",
    "failed",
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
)
"""The measures of a statement: those that add up."""

GRACE = timedelta(hours=1)
"""How long after its end a month closes: what began in it may end, and be recorded, only then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One customer's month; a plain value that stays as it is.

    Attributes:
        org: the organisation it is for; None where it is for a user.
        user: the user it is for; None where it is for an organisation.
        month: `"2026-10"`.
        tz: the IANA name of the zone whose calendar it keeps to.
        start: the month's first instant there, aware UTC, inclusive.
        end: the next month's first instant, exclusive.
        by: what the lines are by, besides the day: of `LINES_BY`.
        lines: one dict per day and value of `by`, ascending; keys are `day`, the name in `by`, and the measures of
            `STATEMENT_MEASURES`: ints, but `cost_usd` a Decimal or None and `quantity` a Decimal.
        totals: the measures over all lines, which add up to them exactly.
        closed: whether the month is done with: it ended in its zone at least `GRACE` before `as_of`, the source counts
            every event, nothing that happened before its end is known to wait anywhere, and nothing of it was purged.
            An event that is recorded later with a `time` in the month still changes it.
        as_of: when it was made, aware UTC.
        exact: as of `UsageReport`.
        source: as of `UsageReport`.
        complete_from: as of `UsageReport`: where it lies after `start`, purged events may be missing.
    """

    org: str | None
    user: str | None
    month: str
    tz: str
    start: datetime
    end: datetime
    by: str
    lines: list[dict[str, Any]]
    totals: dict[str, Any]
    closed: bool
    as_of: datetime
    exact: bool
    source: str
    complete_from: datetime | None

    def to_csv(self) -> str:
        """Give the lines as CSV, as `UsageReport.to_csv` does; the totals are not in it."""
        return "".join(csv_lines(("day", self.by, *STATEMENT_MEASURES), self.lines))

    def to_json(self) -> str:
        """Give one JSON object with all attributes; money and quantities as decimal strings, times in the zone."""
        zone = time_zone(self.tz)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values, default=lambda value: json_value(value, zone), allow_nan=False)


def statement(
    source: Reader,
    *,
    org: object = None,
    user: object = None,
    month: str,
    tz: str = "UTC",
    by: str = "route",
    timeout: float | None = None,
    now: datetime | None = None,
) -> Statement:
    """Give what one customer used in one month: a line per day and route, model or event type, and the totals.

    Blocks until it is there. An event is in the month in which it began, by the calendar of `tz`, as
    `usage(by="month")` has it: from the month's first instant on, to the next month's, which is not in it.

    Args:
        source: a recorder or a reader. One that keeps events on their way in (`SQLiteBackend` does) tells by its
            `awaits` whether some from before the month's end still wait; a recorder imports them first.
        org: the organisation; or
        user: the user. Exactly one of the two.
        month: `"2026-10"`.
        tz: IANA name of the customer's zone.
        by: `"route"`, `"model"` or `"event"`; `""` stands for events without one.
        timeout: seconds that the answer may take; None = as long as it takes.
        now: aware; None = the clock.

    Raises:
        QueryError: what was given cannot be asked; says what is allowed.
        QueryTimeout: it took longer than `timeout`.
    """
    name, customer = _customer(org, user)
    if by not in LINES_BY:
        raise QueryError(f"a statement has no lines by {shown(by)}; use one of {', '.join(LINES_BY)}")
    if not isinstance(month, str):
        raise QueryError(f"bad month {shown(month)}; use year and month: '2026-11'")
    as_of = (datetime.now(UTC) if now is None else now).astimezone(UTC)
    query = UsageQuery.build(
        by=["day", by],
        measures=STATEMENT_MEASURES,
        tz=tz,
        where={name: customer, "month": month},
        order="day",
        timeout=timeout,
        now=now,
    )
    if not query.spans:
        raise QueryError(f"month {shown(month)} cannot hold events, which lie between the years 1970 and 9999")
    start, end = query.spans[0][0], query.spans[-1][1]
    # Before the answer: what is imported in between is in it.
    awaits = getattr(source, "awaits", None)
    is_all = awaits is None or not awaits(end)
    report = source.read(query)
    is_whole = report.complete_from is None or report.complete_from <= start
    lines, quantity = _with_exact_quantities(report.rows)
    return Statement(
        org=customer if name == "org" else None,
        user=customer if name == "user" else None,
        month=month,
        tz=tz,
        start=start,
        end=end,
        by=by,
        lines=lines,
        totals=report.totals | {"quantity": quantity},
        closed=as_of >= end + GRACE and report.exact and is_all and is_whole,
        as_of=as_of,
        exact=report.exact,
        source=report.source,
        complete_from=report.complete_from,
    )


def _customer(org: object, user: object) -> tuple[str, str]:
    given = {name: value for name, value in (("org", org), ("user", user)) if value is not None}
    if len(given) != 1:
        raise QueryError("a statement is for one customer; give either org or user")
    name, value = given.popitem()
    customer = "" if isinstance(value, (list, tuple, set, frozenset, dict)) else _clean.text(value)
    if not customer:
        raise QueryError(f"{name}={shown(value)} is not one customer; give the id that events were recorded with")
    return name, customer


def _with_exact_quantities(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Decimal]:
    """Give the rows with quantities as decimals, and their sum.

    Quantities are whole millionths; as floats they are that exactly up to four billion units a row.
    """
    millionths = [_clean.MICRO * int(row["quantity"]) + round(row["quantity"] % 1 * _clean.MICRO) for row in rows]
    lines = [row | {"quantity": Decimal(f"{units}E-6")} for row, units in zip(rows, millionths, strict=True)]
    return lines, Decimal(f"{sum(millionths)}E-6")
