"""Records numbered events and waits to be killed: abandon.py LEDGER COUNT. Its importer never gets to work."""

from __future__ import annotations

import sys
from threading import Event

from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if __name__ == "__main__":
    recorder = Recorder(SQLiteBackend(sys.argv[1]))
    assert recorder._engine is not None
    recorder._engine._closed = True  # so that the first event starts no thread
    for number in range(int(sys.argv[2])):
        assert recorder.track("tick", response_bytes=number)
    print("recorded", flush=True)
    Event().wait()
