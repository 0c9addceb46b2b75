"""Fills its disk while it records, and makes space again: full.py DIRECTORY WHEN; prints what happened as JSON.

`while recording`: nothing can be written any more, journals included. `while importing`: journals were written before,
and the ledger has no space to take them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from itertools import count
from pathlib import Path
from time import monotonic, sleep

from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

numbers = count()


class Tellings:
    """What the host was told."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.accepted: set[int] = set()
        self.rejected = 0
        self.raised = 0

    def record(self, times: int) -> int:
        """Record; returns how many were rejected."""
        before = self.rejected
        for number in (next(numbers) for _ in range(times)):
            try:
                told = self.recorder.track("tick", user=f"user {number}", response_bytes=number)
            except Exception:  # noqa: BLE001  none may come
                self.raised += 1
            else:
                if told:
                    self.accepted.add(number)
                else:
                    self.rejected += 1
        return self.rejected - before


def fill(directory: Path) -> Path:
    """Take all the space there is."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return ballast


def main(directory: Path, when: str) -> None:
    """Tell the story."""
    path = directory / "usage.db"
    recorder = Recorder(SQLiteBackend(path))
    host = Tellings(recorder)
    at_first = host.record(1000)
    if when == "while importing":
        with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            at_first += host.record(5000)
            ballast = fill(directory)
        when_full = 0
        if recorder.flush(0.5):
            sys.exit("the ledger took 5,000 events without space")
    else:
        if not recorder.flush():
            sys.exit("the first events were not imported")
        ballast = fill(directory)
        when_full = host.record(20_000)
    ballast.unlink()
    freed = monotonic()
    while host.record(1) or not recorder.flush(1.0):
        if monotonic() > freed + 20.0:
            sys.exit("it does not recover")
        sleep(0.01)
    recovered = monotonic()
    host.record(100)
    if not recorder.flush():
        sys.exit("the last events were not imported")
    accepted, rejected = recorder.status()["accepted"], recorder.status()["rejected"]
    recorder.close()
    with closing(sqlite3.connect(path)) as connection:
        stored = [number for (number,) in connection.execute("SELECT output FROM events")]
    print(
        json.dumps(
            {
                "rejected_at_first": at_first,
                "rejected_when_full": when_full,
                "seconds_to_recover": recovered - freed,
                "accepted": len(host.accepted),
                "rejected": host.rejected,
                "raised": host.raised,
                "counted": [accepted, rejected],
                "stored": len(set(stored) & host.accepted) if set(stored) == host.accepted else -1,
                "twice": len(stored) - len(set(stored)),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
