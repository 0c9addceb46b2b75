"""`usagekit backfill` and `usagekit reconcile`: what another backend holds, into the ledger or beside it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from usagekit._backfill import COMPARED, Drift, backfill_day, drift_of, source_name, yesterday
from usagekit._environment import switch
from usagekit.backends import backend_from_url
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.cli import DONE, LEFT
from usagekit.cli.source import explained, ledger
from usagekit.cli.table import Column, fitting, print_table
from usagekit.cli.wording import counted, format_of, shown_key
from usagekit.errors import ConfigurationError, QueryError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from usagekit.query import Reader


def backfill(arguments: argparse.Namespace) -> int:
    """Bring the days that were meant into the ledger."""
    if not switch("USAGEKIT_BATCH", default=True):
        print("USAGEKIT_BATCH=0: nothing is brought in")
        return DONE
    path = ledger(arguments.db)
    with _source(arguments, path) as source, explained(path):
        for day in _days(arguments.day, arguments.days):
            brought = backfill_day(path, source, day, by=_names(arguments.by), per=arguments.per)
            what = f"{counted(brought.events, 'event')} in {counted(brought.rows, 'row')}"
            if brought.kept:
                what = "nothing is there; what was brought in before is kept"
            print(f"{day}: {what} from {source_name(source)}{'' if brought.exact else ', sampled'}")
    return DONE


def reconcile(arguments: argparse.Namespace) -> int:
    """Show how far ledger and source are apart; 1 where it is further than tolerated."""
    path = ledger(arguments.db)
    by = ["day", *(_names(arguments.by) or [])]
    with _source(arguments, path) as source, explained(path):
        name, layout = source_name(source), getattr(source, "layout", None)
        taken = None if layout is None else layout.where
        drifts = drift_of(SQLiteBackend(path), source, _days(arguments.day, arguments.days), by, taken=taken)
    far = [drift for drift in drifts if drift.percent > arguments.tolerance]
    if arguments.format == "json":
        print(json.dumps([_plain(by, drift) for drift in drifts], default=lambda value: f"{value:f}"))
    else:
        _show(by, drifts if arguments.all else far)
        within = f"{len(drifts) - len(far):,} of {counted(len(drifts), 'row')}"
        print(f"{within} within {arguments.tolerance:g} % of {name}")
    return LEFT if far else DONE


@contextmanager
def _source(arguments: argparse.Namespace, path: str) -> Iterator[Reader]:
    url = _url(arguments.source, arguments.layout)
    source = backend_from_url(url)
    if not hasattr(source, "read"):
        raise ConfigurationError(
            f"{url!r} cannot be asked here; set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN, or give another --from"
        )
    if getattr(source, "in_process", False):
        raise ConfigurationError(
            f"--from {url!r} holds what its own process recorded; give a backend that others share"
        )
    if getattr(source, "ledger_path", None) == SQLiteBackend(path).ledger_path:
        raise ConfigurationError(f"--from {url!r} is the ledger itself; give another backend")
    if hasattr(source, "declare"):
        # What a layout names beyond them, the ledger gets to know with the first day.
        source.declare((*SQLiteBackend(path).dimensions, *(source.dimensions if arguments.layout else ())))
    try:
        yield source
    finally:
        if hasattr(source, "close"):
            source.close()


def _url(url: str, layout: str | None) -> str:
    if layout is None:
        return url
    if not url.startswith("analytics-engine://"):
        raise ConfigurationError(
            f"--layout {layout!r} is for analytics-engine://, not for --from {url!r}; leave it out"
        )
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'layout': layout})}"


def _days(day: str | None, count: int | None) -> list[date]:
    if day is not None and count is not None:
        raise QueryError("--day and --days exclude each other; give one of them")
    if count is not None:
        return [yesterday() - timedelta(days=ago) for ago in reversed(range(count))]
    known = {None: yesterday(), "yesterday": yesterday(), "today": yesterday() + timedelta(days=1)}
    if day in known:
        return [known[day]]
    try:
        return [datetime.strptime(str(day), "%Y-%m-%d").date()]  # noqa: DTZ007  a day of UTC, without a time
    except ValueError as error:
        raise QueryError(f"bad --day {day!r}; use yesterday, today or a date like 2026-11-20") from error


def _names(given: list[str] | None) -> list[str] | None:
    return None if given is None else [name.strip() for text in given for name in text.split(",") if name.strip()]


def _plain(by: list[str], drift: Drift) -> dict[str, Any]:
    keys = dict(zip(by, drift.key, strict=True))
    percent = drift.percent if drift.percent != float("inf") else None
    return keys | {"ledger": drift.ledger, "source": drift.source, "drift_percent": percent}


def _show(by: list[str], drifts: list[Drift]) -> None:
    if not drifts:
        return
    keys = [Column(name, [shown_key(name, drift.key[place]) for drift in drifts], "") for place, name in enumerate(by)]
    columns = []
    for name in COMPARED:
        for side in ("ledger", "source"):
            values = [getattr(drift, side)[name] for drift in drifts]
            shown = format_of(name, [value for value in values if value is not None])
            cells = ["-" if value is None else shown(value) for value in values]
            columns.append(Column(f"{name}_{side}", cells, "", right=True))
    apart = ["-" if drift.percent == float("inf") else f"{drift.percent:.2f} %" for drift in drifts]
    for table in fitting(keys, [Column("drift", apart, "", right=True), *columns]):
        print_table(table)
