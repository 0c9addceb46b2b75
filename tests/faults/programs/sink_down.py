"""Records events while a sink is down: sink_down.py LEDGER COUNT worker|opentelemetry URL. Prints what that cost.

Until its caches are full it records `WARM` events, then COUNT further ones, with retries all the while. JSON says by
how many bytes the process grew meanwhile, what the sink raised how often, and the sinks' status.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.backends.opentelemetry.conftest import providing
from tests.support.outage import WARM, record
from tests.support.stores import eventually
from usagekit import Recorder
from usagekit._store import delivery as deliveries
from usagekit.backends.analytics_engine import sink as sinks
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.signals import delivery_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1000
failures: Counter[str] = Counter()  # exceptions themselves would hold on to batches, by their tracebacks


@contextmanager
def sink_of(kind: str, url: str) -> Iterator[Any]:
    """Give a sink that writes to `url`."""
    if kind == "worker":
        yield AnalyticsEngineBackend(ingest_url=url, ingest_key="k" * 32)
        return
    with providing(url, timeout=0.2) as providers:
        yield providers.backend(logs=True)


def recorded(recorder: Recorder, count: int) -> int:
    """Record so many events, and have the sink try again; returns how much memory this process then has."""
    before = failures.total()
    for _ in range(count // CHUNK):
        record(recorder, range(CHUNK))
        assert recorder.flush(60)
    assert eventually(lambda: failures.total() > before + 5, 60)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    path, number, kind, url = sys.argv[1:]
    deliveries.FIRST_WAIT, deliveries.LONGEST_WAIT, sinks._ANSWER_SECONDS = 0.001, 0.1, 0.2

    @delivery_failed.connect
    def failed(recorder: Recorder, error: BaseException, **extra: Any) -> None:
        """Count a failure."""
        failures[type(error).__name__] += 1

    with sink_of(kind, url) as sink, Recorder(SQLiteBackend(path), sink) as recorder:
        warm = recorded(recorder, WARM)
        grown = recorded(recorder, int(number)) - warm
        print(json.dumps({"grown": grown, "failures": failures, "sinks": recorder.status()["sinks"]}))
