"""`usagekit report`: who used what, how much, and at which cost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usagekit.cli import DONE
from usagekit.cli.options import PERIOD
from usagekit.cli.source import explained, reader
from usagekit.cli.table import Column, fitting, print_table
from usagekit.cli.wording import counted, format_of, shown_key
from usagekit.errors import QueryError
from usagekit.query import usage

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from usagekit.query import UsageReport

EVERYTHING = "all"

TABLE_MEASURES = (
    "events",
    "users",
    "failed",
    "total_tokens",
    "cost_usd",
    "latency_ms_p95",
    "last_seen",
    "success_rate",
    "latency_ms_p50",
    "unpriced",
)
"""What a table shows when no measures were asked for: of these, from the left, as many as the terminal has room for.

What is 0 or unknown for everything that matched is left out, but for `events` and `failed`.
"""


def report(arguments: argparse.Namespace) -> int:
    """Answer the question that the options ask."""
    source = reader(arguments.db)
    measures = names_of(arguments.measures)
    by = ["user"] if arguments.by is None else names_of(arguments.by) or []
    choose = measures is None and arguments.format == "table"
    if choose:
        measures = [name for name in TABLE_MEASURES if (name, "user" in by) != ("users", True)]
    with explained(getattr(source, "ledger_path", "")):
        answer = usage(
            source,
            by=by,
            measures=None if measures == [EVERYTHING] else measures,
            **asked(arguments),
        )
    if arguments.format == "json":
        print(answer.to_json())
    elif arguments.format == "csv":
        sys.stdout.write(answer.to_csv())
    else:
        _show_table(answer, choose=choose)
        _show_waiting(source)
    return DONE


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the options of `usage` that say which events are meant, and how many rows."""
    ranges = (arguments.period, arguments.days, arguments.start, arguments.end)
    period = PERIOD if ranges == (None, None, None, None) else arguments.period
    return {
        "period": None if period == EVERYTHING else period,
        "days": arguments.days,
        "start": arguments.start,
        "end": arguments.end,
        "tz": arguments.tz,
        "where": _filters(arguments.where) or None,
        "order": arguments.order,
        "limit": arguments.limit,
        "origin": arguments.origin,
        "timeout": arguments.timeout,
    }


def names_of(given: list[str] | None) -> list[str] | None:
    """Give the names in options that take several, separated by commas; None where the option was not given."""
    return None if given is None else [name.strip() for text in given for name in text.split(",") if name.strip()]


def _filters(given: list[str]) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise QueryError(f"bad --where {text!r}; use --where org=org_xyz, and again for another value")
        filters.setdefault(name, []).append(value)
    return filters


def _show_table(report: UsageReport, *, choose: bool) -> None:
    """Print the table; `choose`: of its measures only those that say something, and have room."""
    query = report.query
    total = report.totals if query.by else {}
    keys = [Column(name, [shown_key(name, row[name]) for row in report.rows], "total") for name in query.by]
    for key in keys[1:]:
        key.total = ""
    always = {"events", "failed"} if choose else set(query.measures)
    names = [name for name in query.measures if name in always or report.totals[name]]
    measures = [measure_column(name, report.rows, total) for name in names]
    if not report.totals.get("events", 1):
        print("No events matched.")
    elif measures or keys:
        tables = fitting(keys, measures)
        for table in tables[:1] if choose else tables:
            print_table(table)
    print(_about(report))


def measure_column(name: str, rows: list[dict[str, Any]], totals: dict[str, Any]) -> Column:
    """Give the column of a measure; without `totals` it has no total."""
    known = [value for value in (*(row[name] for row in rows), totals.get(name)) if value is not None]
    shown = format_of(name, known)
    cells = ["-" if row[name] is None else shown(row[name]) for row in rows]
    total = "" if not totals else "-" if totals[name] is None else shown(totals[name])
    return Column(name, cells, total, right=name != "last_seen")


def _about(report: UsageReport) -> str:
    """Say in one line what the table is about."""
    query = report.query
    start = "the beginning" if query.start is None else _local(query.start, report)
    end = "now" if query.end is None else _local(query.end, report)
    period = "all time" if query.start is query.end else f"{start} to {end}"
    parts = [f"{period} ({query.tz})", f"source {report.source}", "exact" if report.exact else "sampled, not exact"]
    if query.origin != "direct":
        parts.insert(1, f"origin {query.origin}")
    if report.totals.get("unpriced"):
        parts.append(f"{counted(report.totals['unpriced'], 'call')} without a known cost")
    if report.complete_from is not None:
        parts.append(f"complete from {_local(report.complete_from, report)}")
    if report.groups > len(report.rows):
        parts.append(f"first {len(report.rows):,} of {report.groups:,} rows")
    return ", ".join(parts)


def _local(time: datetime, report: UsageReport) -> str:
    return f"{time.astimezone(report.query.zone):%Y-%m-%d %H:%M:%S}"


def _show_waiting(source: Any) -> None:
    path = getattr(source, "ledger_path", None)
    if path is None:
        return
    from usagekit._store.engine import status_of

    waiting = status_of(path, ())["waiting"]
    if waiting["bytes"]:
        size, files = counted(waiting["bytes"], "byte"), counted(waiting["journals"], "journal")
        print(f"not in it yet: {size} in {files}; usagekit drain imports them")
