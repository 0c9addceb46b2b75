"""Kills importers at random moments until they are done: importers.py LEDGER RECORDS JOURNALS AT_ONCE."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from time import monotonic, sleep

from usagekit import UsageEvent
from usagekit._store import record as records
from usagekit._store.engine import journals_of
from usagekit._store.journal import Journal
from usagekit._store.ledger import Importer
from usagekit._store.schema import is_busy, prepare

DEADLINE_SECONDS = 60.0


def write(directory: str, count: int, files: int) -> dict[str, int]:
    """Write journals that nobody owns; gives the number that each event carries, by id."""
    written = {}
    for first in range(0, count, count // files + 1):
        journal = Journal(directory)
        for number in range(first, min(count, first + count // files + 1)):
            event = UsageEvent(event="tick", user=f"user {number % 999}", response_bytes=number)
            accepted = journal.append(records.body_of(event))
            if isinstance(accepted, str):
                sys.exit(f"rejected: {accepted}")
            name, place = accepted
            written[f"{name}-{place}"] = number
        journal.release()
    return written


def run(path: str) -> None:
    """Import until nothing is left."""
    import sqlite3

    importer = Importer(path, journals_of(path))
    while True:
        try:
            if not importer.step():
                importer.adopt()
                if not any(Path(journals_of(path)).iterdir()):
                    return
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            sleep(0.001)


def born(path: str) -> int:
    """Start an importer in a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        run(path)
    except BaseException:  # noqa: BLE001  a child must not come back
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def main(path: str, count: int, files: int, at_once: int) -> None:
    """Write the journals, import them by importers that die, and print what was written."""
    prepare(path)
    written = write(journals_of(path), count, files)
    killed = 0
    deadline = monotonic() + DEADLINE_SECONDS
    children = [born(path) for _ in range(at_once)]
    while any(Path(journals_of(path)).iterdir()):
        if monotonic() > deadline:
            sys.exit("the importers do not get there")
        # Long enough for one batch now and then, too short for all of them; more and more, where the machine is busy.
        sleep(random.expovariate(1 / (0.015 + 0.0005 * killed)))
        child = children.pop(0)
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        children.append(born(path))
    for child in children:
        os.waitpid(child, 0)
    print(json.dumps({"written": written, "killed": killed}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
