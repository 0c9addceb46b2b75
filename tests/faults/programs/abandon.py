"""Records numbered events and waits to be killed: abandon.py LEDGER COUNT. Its importer never gets to work.

It says so when it recorded, and records as many again for each line that it is told.
"""

from __future__ import annotations

import sys
from itertools import count, islice

from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if __name__ == "__main__":
    recorder = Recorder(SQLiteBackend(sys.argv[1]))
    assert recorder._engine is not None
    recorder._engine._closed = True  # so that the first event starts no thread
    numbers = count()
    while True:
        for number in islice(numbers, int(sys.argv[2])):
            assert recorder.track("tick", response_bytes=number)
        print("recorded", flush=True)
        sys.stdin.readline()
