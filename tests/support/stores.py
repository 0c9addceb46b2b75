"""Looking into a store from outside: files, raw rows, and waiting for what other threads and processes do."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from usagekit._store.delivery import read_events
from usagekit._store.engine import journals_of
from usagekit._store.schema import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usagekit.event import UsageEvent


def journal_files(path: Path) -> list[Path]:
    """Give the journals of the ledger at `path`, by name."""
    return sorted(Path(journals_of(str(path))).glob("*.journal"))


def query(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask the ledger itself, without any of our code in between."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql, values).fetchall()


def stored_events(path: Path) -> list[UsageEvent]:
    """Give all events of the ledger, in import order."""
    with closing(connect(str(path))) as connection:
        return [event for _, event in read_events(connection, 0, 2**60)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep everybody from writing to the ledger, as another program at work there would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> bool:
    """Look again and again until `holds` is true; False when it was not within `seconds`."""
    deadline = monotonic() + seconds
    while not holds():
        if monotonic() > deadline:
            return False
        sleep(0.005)
    return True
