"""Records while no file can be opened: descriptors.py LEDGER COUNT; prints what became of it as JSON."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import sys
from contextlib import closing
from time import monotonic, sleep

from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if __name__ == "__main__":
    path, times = sys.argv[1], int(sys.argv[2])
    recorder = Recorder(SQLiteBackend(path))
    recorder.track("tick")
    recorder.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    raised = 0
    until = monotonic() + 0.5  # several rounds of the importing thread
    for _ in range(times):
        try:
            recorder.track("tick")
        except Exception:  # noqa: BLE001  none may come
            raised += 1
    while monotonic() < until:
        sleep(0.01)
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    deadline = monotonic() + 5.0
    imported = False
    with closing(sqlite3.connect(path)) as connection:
        while not imported and monotonic() < deadline:
            imported = connection.execute("SELECT count(*) FROM events").fetchone() == (times + 1,)
            sleep(0.01)
    status = recorder.status()
    recorder.close()
    told = {name: status[name] for name in ("accepted", "rejected")}
    print(json.dumps(told | {"imported": imported, "raised": raised}))
