"""Opens fresh ledgers with many processes at once: openers.py DIRECTORY TIMES PROCESSES."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import sqlite_utils  # noqa: F401  what each child needs is loaded once

import usagekit._store.engine  # noqa: F401
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend


def main(directory: Path, times: int, processes: int) -> int:
    """Return how many of all the processes failed."""
    failed = 0
    for n in range(times):
        wait, go = os.pipe()
        children = []
        for _ in range(processes):
            child = os.fork()
            if not child:
                os.close(go)
                os.read(wait, 1)  # returns when everybody is born
                try:
                    with Recorder(SQLiteBackend(directory / str(n) / "usage.db"), dimensions=["project"]) as recorder:
                        good = recorder.track("tick") and recorder.flush(30.0)
                except BaseException:  # noqa: BLE001  a child must not come back
                    sys.excepthook(*sys.exc_info())
                    good = False
                os._exit(0 if good else 1)
            children.append(child)
        os.close(wait)
        os.close(go)
        failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return failed


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])), "failed")
