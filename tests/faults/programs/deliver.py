"""Delivers 20 events to a file, batch by batch: deliver.py LEDGER FILE hang|end.

`hang`: the first batch reaches the file, and the acknowledgement never comes. `end`: delivers all and ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usagekit import UsageEvent


class File:
    """A sink that writes lines."""

    max_batch = 8
    name = "file"

    def __init__(self, path: str, *, hangs: bool) -> None:
        self._path = Path(path)
        self._hangs = hangs
        self.sent = 0
        self.done = Event()

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            whole = [repr(event) for event in events]
            file.write(json.dumps({"batch_id": batch_id, "events": whole}) + "\n")
        if self._hangs:
            Event().wait()
        self.sent += len(events)
        if self.sent == 20:
            self.done.set()

    def close(self) -> None:
        pass


if __name__ == "__main__":
    ledger, path, mode = sys.argv[1:]
    sink = File(path, hangs=mode == "hang")
    with Recorder(SQLiteBackend(ledger), sink) as recorder:
        if mode == "hang":
            for n in range(19):
                recorder.track("tick", response_bytes=n)
            recorder.flush()
            Event().wait()
        recorder.track("tick", response_bytes=19)
        sink.done.wait(30.0)
