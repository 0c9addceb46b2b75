"""`usagekit export`: events, or the rows of a report, line by line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from usagekit.cli import DONE
from usagekit.cli.files import output
from usagekit.cli.progress import Progress
from usagekit.cli.report import EVERYTHING, asked, names_of
from usagekit.cli.source import explained, reader
from usagekit.errors import ConfigurationError
from usagekit.query import UsageQuery, usage
from usagekit.query.text import csv_lines, json_value

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo

EVENT_COLUMNS = (
    "event_id",
    "time",
    "kind",
    "event",
    "user",
    "org",
    "status",
    "latency_ms",
    "route",
    "provider",
    "model",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "first_token_ms",
    "cost_usd",
    "cost_source",
    "response_bytes",
    "aborted",
    "quantity",
    "weight",
)
"""The columns of events, in this order; the app's own dimensions follow. New ones are only ever added behind these."""


def export(arguments: argparse.Namespace) -> int:
    """Write events, or with `--by` the rows of a report."""
    source = reader(arguments.db)
    path = getattr(source, "ledger_path", "")
    with explained(path), Progress("exporting") as progress:
        lines = _events(source, arguments, progress) if arguments.by is None else _report(source, arguments)
        with output(arguments.output, ledger=path) as out:
            out.writelines(lines)
    return DONE


def _report(source: Any, arguments: argparse.Namespace) -> Iterator[str]:
    measures = names_of(arguments.measures)
    report = usage(
        source,
        by=names_of(arguments.by) or [],
        measures=None if measures == [EVERYTHING] else measures,
        **asked(arguments),
    )
    names = (*report.query.by, *report.query.measures)
    return _lines(arguments.format, names, report.rows, report.query.zone)


def _events(source: Any, arguments: argparse.Namespace, progress: Progress) -> Iterator[str]:
    if not hasattr(source, "event_fields"):
        raise ConfigurationError(
            f"a {type(source).__name__} has no events to export; give --by to export a report, or --db PATH"
        )
    if arguments.measures is not None or arguments.order is not None:
        raise ConfigurationError("--measures and --order are for reports; give --by, or leave them out for events")
    dimensions = tuple(name for name in source.dimensions if name not in EVENT_COLUMNS)
    query = UsageQuery.build(dimensions=dimensions, **asked(arguments))
    zone = query.zone
    last = source.last_number()

    def rows() -> Iterator[dict[str, Any]]:
        for number, fields in source.event_fields(query, last):
            yield _row(fields, dimensions, zone)
            progress.show(number, last)

    return _lines(arguments.format, (*EVENT_COLUMNS, *dimensions), rows(), zone)


def _row(fields: dict[str, Any], dimensions: Sequence[str], zone: tzinfo) -> dict[str, Any]:
    time = fields["time"].astimezone(zone).isoformat(timespec="microseconds")
    own = fields["attributes"]
    return fields | {"event_id": fields["id"], "time": time} | {name: own.get(name, "") for name in dimensions}


def _lines(form: str, names: Sequence[str], rows: Iterable[Mapping[str, Any]], zone: tzinfo) -> Iterator[str]:
    if form == "csv":
        yield from csv_lines(names, rows)
        return
    for row in rows:
        values = {name: row[name] for name in names}
        yield json.dumps(values, default=lambda value: json_value(value, zone), allow_nan=False) + "\n"
