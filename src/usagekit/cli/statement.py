"""`usagekit statement`: one customer's month, as a bill needs it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from usagekit.cli import DONE
from usagekit.cli.report import measure_column
from usagekit.cli.source import explained, reader
from usagekit.cli.table import Column, fitting, print_table
from usagekit.cli.wording import shown_key
from usagekit.query import statement as statement_of
from usagekit.query.periods import time_zone

if TYPE_CHECKING:
    import argparse
    from decimal import Decimal

    from usagekit.query import Statement

ALWAYS_SHOWN = frozenset({"events", "cost_usd"})


def statement(arguments: argparse.Namespace) -> int:
    """Give the statement that the options ask for."""
    source = reader(arguments.db)
    with explained(getattr(source, "ledger_path", "")):
        answer = statement_of(
            source,
            org=arguments.org,
            user=arguments.user,
            month=arguments.month,
            tz=arguments.tz,
            by=arguments.by,
            timeout=arguments.timeout,
        )
    if answer.complete_from is not None and answer.complete_from > answer.start:
        print(
            f"usagekit statement: events of {answer.month} were purged, and lines by {answer.by} need them: "
            "this statement is too small; --by event is answered from rollups",
            file=sys.stderr,
        )
    if arguments.format == "json":
        print(answer.to_json())
    elif arguments.format == "csv":
        sys.stdout.write(answer.to_csv())
    else:
        _show_table(answer)
    return DONE


def _show_table(answer: Statement) -> None:
    keys = [
        Column("day", [line["day"] for line in answer.lines], "total"),
        Column(answer.by, [shown_key(answer.by, line[answer.by]) for line in answer.lines], ""),
    ]
    names = [name for name, total in answer.totals.items() if total or name in ALWAYS_SHOWN]
    if answer.lines:
        for table in fitting(keys, [_column(name, answer) for name in names]):
            print_table(table)
    else:
        print("No events matched.")
    print(_about(answer))


def _column(name: str, answer: Statement) -> Column:
    column = measure_column(name, answer.lines, answer.totals)
    if name == "cost_usd":  # a report rounds for the eye, a bill does not
        column.cells = [_exact_dollars(line[name]) for line in answer.lines]
        column.total = _exact_dollars(answer.totals[name])
    return column


def _exact_dollars(value: Decimal | None) -> str:
    if value is None:
        return "-"
    whole, _, decimals = f"{value:,f}".partition(".")
    return f"${whole}.{decimals.rstrip('0'):0<2}"


def _about(answer: Statement) -> str:
    customer = f"org {answer.org}" if answer.user is None else f"user {answer.user}"
    zone = time_zone(answer.tz)
    start, end = (f"{time.astimezone(zone):%Y-%m-%d %H:%M:%S %z}" for time in (answer.start, answer.end))
    parts = [
        f"{customer}, {answer.month}: {start} to {end} ({answer.tz})",
        f"source {answer.source}",
        "exact" if answer.exact else "sampled, not exact",
        "closed" if answer.closed else "not closed",
    ]
    if answer.complete_from is not None and answer.complete_from > answer.start:
        parts.append(f"complete from {answer.complete_from.astimezone(zone):%Y-%m-%d %H:%M:%S}")
    return ", ".join(parts)
