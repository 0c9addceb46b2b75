"""Records and delivers in several processes at once: senders.py LEDGER FILE PROCESSES EVENTS.

Prints the numbers of the events that were accepted.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from usagekit import Recorder
from usagekit._store.schema import connect
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit import UsageEvent


class File:
    """A sink that takes its time, and writes when."""

    max_batch = 40
    name = "file"

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        began = monotonic()
        sleep(0.002)  # a network's time
        line = {"numbers": [event.response_bytes for event in events], "began": began, "ended": monotonic()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        pass


def work(ledger: str, path: str, process: int, count: int, everything: int) -> None:
    """Record some events, and stay until all of all processes are delivered."""
    with Recorder(SQLiteBackend(ledger), File(path)) as recorder:
        for n in range(count):
            number = process * 10_000 + n
            if recorder.track("tick", response_bytes=number):
                os.write(1, b"%d\n" % number)
            if n % 20 == 0:
                sleep(0.005)  # spread over the others' time
        deadline = monotonic() + 30.0
        with closing(connect(ledger, read_only=True)) as connection:
            while monotonic() < deadline:
                row = connection.execute("SELECT delivered FROM sinks").fetchone()
                if row is not None and row[0] >= everything:
                    return
                sleep(0.02)
    sys.exit("not all was delivered")


def main(ledger: str, path: str, processes: int, count: int) -> None:
    """Start them all before any of them opens the ledger."""
    children = []
    for process in range(processes):
        child = os.fork()
        if not child:
            try:
                work(ledger, path, process, count, processes * count)
            except BaseException:  # noqa: BLE001  a child must not come back
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a child failed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
