"""`usagekit drain`: import what processes left in their journals."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from time import monotonic, sleep
from typing import TYPE_CHECKING

from usagekit._store.engine import journals_of, status_of
from usagekit._store.journal import files
from usagekit._store.ledger import Importer
from usagekit._store.schema import is_busy, prepare
from usagekit.cli import DONE, LEFT
from usagekit.cli.progress import Progress
from usagekit.cli.source import check, explained, ledger
from usagekit.cli.upkeep import roll_up
from usagekit.cli.wording import counted

if TYPE_CHECKING:
    import argparse

BUSY_WAIT = 0.01


def drain(arguments: argparse.Namespace) -> int:
    """Import all that waits, and say what became of it."""
    path = ledger(arguments.db)
    with explained(path):
        if not any(files(journals_of(path))):
            check(path)  # where there is neither ledger nor journal, none is to be made
        prepare(path)
        before = status_of(path, ())
        left = _import_all(path, arguments.timeout)
        after = status_of(path, ())
        if not after["sinks"] or after["jobs"]:  # the mere spool of some sinks needs no rollups
            with closing(Importer(path, journals_of(path))) as importer:
                roll_up(importer, path, arguments.timeout)
    gained = {name: after[name] - before[name] for name in ("durable", "repeated", "corrupt")}
    print(f"imported {counted(gained['durable'], 'event')} into {path}")
    if gained["repeated"]:
        print(f"{counted(gained['repeated'], 'event')} had an event_id that was counted before")
    if gained["corrupt"]:
        print(f"{counted(gained['corrupt'], 'record')} could not be read: torn by a death or a power cut, or damaged")
    if not left["bytes"]:
        return DONE
    print(
        f"usagekit drain: {counted(left['bytes'], 'byte')} in {counted(left['journals'], 'journal')} are left after "
        f"{arguments.timeout:g} s; another process may be writing: run it again, or give a larger --timeout",
        file=sys.stderr,
    )
    return LEFT


def _import_all(path: str, timeout: float) -> dict[str, int]:
    """Import until nothing waits or `timeout` seconds are over; returns what is left: `journals` and `bytes`."""
    directory = journals_of(path)
    left = _waiting(path)
    total = left["bytes"]
    if not os.path.isdir(directory):  # noqa: PTH112  paths are text here, as the store has them
        return left
    deadline = monotonic() + timeout
    with closing(Importer(path, directory)) as importer, Progress("importing") as progress:
        while True:
            try:
                taken = importer.step()
                if not taken:
                    importer.adopt()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                taken = 0  # another process is importing at this moment
            left = _waiting(path)
            total = max(total, left["bytes"])  # others go on recording
            progress.show(total - left["bytes"], total)
            if not left["bytes"] or monotonic() > deadline:
                importer.adopt()
                return left
            if not taken:
                sleep(BUSY_WAIT)


def _waiting(path: str) -> dict[str, int]:
    waiting: dict[str, int] = status_of(path, ())["waiting"]
    return waiting
