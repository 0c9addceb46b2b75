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
from usagekit.cli import DONE, LEFT, PROGRESS_AFTER
from usagekit.cli.source import check, explained, ledger
from usagekit.cli.wording import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Self

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
    if not os.path.isdir(directory):  # noqa: PTH112  paths are text here, as the store has them
        return left
    deadline = monotonic() + timeout
    with closing(Importer(path, directory)) as importer, _Progress(left["bytes"]) as progress:
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
            progress.show(left["bytes"])
            if not left["bytes"] or monotonic() > deadline:
                importer.adopt()
                return left
            if not taken:
                sleep(BUSY_WAIT)


def _waiting(path: str) -> dict[str, int]:
    waiting: dict[str, int] = status_of(path, ())["waiting"]
    return waiting


class _Progress:
    """A progress bar on stderr, when that is a terminal and the work takes a while; a context manager.

    Args:
        total: bytes to import, as far as it was known at the start.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._begin = monotonic() + PROGRESS_AFTER
        self._shown: Callable[[int], None] | None = None
        self._end: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def show(self, left: int) -> None:
        """Show how much is `left`."""
        if monotonic() < self._begin or not sys.stderr.isatty():
            return
        if self._shown is None:
            try:
                self._begin_rich()
            except ImportError:
                self._shown, self._end = self._plain, lambda: print(file=sys.stderr)
        self._total = max(self._total, left)
        if self._shown is not None:
            self._shown(self._total - left)

    def _plain(self, done: int) -> None:
        print(f"\rimporting: {done / max(1, self._total):.0%}", end="", file=sys.stderr, flush=True)

    def _begin_rich(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("importing"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = progress.add_task("importing", total=self._total)
        progress.start()
        self._shown = lambda done: progress.update(task, completed=done, total=self._total)
        self._end = progress.stop
