"""`usagekit rollup` and `usagekit purge`: what keeps a ledger fast and small; each may run twice, and at once."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from time import monotonic, sleep
from typing import TYPE_CHECKING

from usagekit._store.engine import journals_of, status_of
from usagekit._store.ledger import Importer
from usagekit._store.retention import Retention, days_from_environment, purge_until_done
from usagekit._store.schema import is_busy, prepare
from usagekit.cli import DONE, LEFT
from usagekit.cli.progress import Progress
from usagekit.cli.source import check, explained, ledger
from usagekit.cli.wording import counted
from usagekit.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

BUSY_WAIT = 0.01

_AGE = re.compile(r"([0-9]{1,6})d?")


def rollup(arguments: argparse.Namespace) -> int:
    """Bring the rollups up to date, or make them anew."""
    path = ledger(arguments.db)
    with explained(path):
        check(path)
        prepare(path)
        os.makedirs(journals_of(path), mode=0o700, exist_ok=True)  # noqa: PTH103  paths are text here
        with closing(Importer(path, journals_of(path))) as importer:
            if arguments.rebuild:
                importer.rebuild_rollups()
            done = roll_up(importer, path, arguments.timeout)
    lag = status_of(path, ())["rollups"]["lag"]
    behind = "up to date" if done else f"behind by {counted(lag, 'event')}"
    print(f"rollups of {path} are {behind}")
    return DONE if done else LEFT


def roll_up(importer: Importer, path: str, timeout: float) -> bool:
    """Step until everything imported is in the rollups; False where `timeout` seconds did not suffice."""
    deadline = monotonic() + timeout
    total = status_of(path, ())["rollups"]["lag"]
    with Progress("rolling up") as progress:
        while True:
            if monotonic() > deadline:
                return bool(status_of(path, ())["rollups"] == {"lag": 0, "rebuilding": False})
            try:
                folded = importer.roll_up()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                folded = None
            if folded == 0:
                return True
            if folded is None:
                sleep(BUSY_WAIT)
            left = status_of(path, ())["rollups"]["lag"]
            total = max(total, left)  # others go on recording, and a rebuild begins anew
            progress.show(total - left, total)


def purge(arguments: argparse.Namespace) -> int:
    """Remove what is older than was asked for."""
    path = ledger(arguments.db)
    days = _days("--older-than", arguments.older_than) or days_from_environment()
    if days is None:
        raise ConfigurationError("no age was given; use --older-than 90d, or set USAGEKIT_RETENTION_DAYS=90")
    rollup_days = _days("--rollups-older-than", arguments.rollups_older_than)
    if rollup_days is not None and rollup_days < days:
        raise ConfigurationError(f"rollups outlive events: give --rollups-older-than {days}d or more")
    with explained(path):
        check(path)
        prepare(path)
        before = status_of(path, ())["bytes"]
        removed = purge_until_done(path, Retention(days, rollup_days))
        told = status_of(path, ())
    size = f"{path} went from {before:,} to {told['bytes']:,} bytes"
    print(f"removed {counted(removed, 'event')} older than {days} days; {size}")
    return DONE


def _days(option: str, age: str | None) -> int | None:
    if age is None:
        return None
    match = _AGE.fullmatch(age)
    if match is None or int(match[1]) == 0:
        raise ConfigurationError(f"bad {option} {age!r}; use a number of days: 90d")
    return int(match[1])
