"""From the ledger to the ingest Worker in workerd, and what it costs the app when the Worker is down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from benchmarks.measure import Estimate, Result, Setting, Table, Target
from benchmarks.traffic import Traffic
from tests.support.workerd import KEY, serving_worker
from usagekit import Recorder
from usagekit._store.delivery import Delivery
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from tests.support.workerd import Workerd

THROUGHPUT = 2000  # events a second
GROWTH = 5.0  # MiB while the Worker is down


def run(setting: Setting) -> Result:
    """Deliver requests and model calls, several times; then record for a minute with nobody there."""
    result = Result()
    home = Path(setting.directory) / "analytics-engine"
    home.mkdir()
    _measure_throughput(result, home, setting.scaled(20_000, 2_000), setting.scaled(5, 3))
    _measure_memory(result, home, setting.scaled(60, 6))
    return result


def _measure_throughput(result: Result, home: Path, count: int, rounds: int) -> None:
    path = home / "usage.db"
    traffic = Traffic()
    with Recorder(SQLiteBackend(path)) as recorder:
        for event in chain(traffic.requests(count // 2), traffic.calls(count // 2)):
            recorder.record(event)
        assert recorder.flush(120.0)
    with serving_worker(home / "worker") as worker:
        each = [_deliver(path, worker, f"round {number}", count) for number in range(rounds)]
    rates = sorted(count / wall for wall, _, _ in each)
    result.targets.append(
        Target("events a second", Estimate(median(rates), rates[0], rates[-1]), THROUGHPUT, at_least=True)
    )
    own = median(cpu for _, cpu, _ in each) / count * 1e6
    theirs = median(cpu for _, _, cpu in each) / count * 1e6
    row = (f"{median(rates):,.0f}", f"{rates[0]:,.0f}-{rates[-1]:,.0f}", f"{own:.0f} µs", f"{theirs:.0f} µs")
    columns = ("events a second", "all rounds", "our processor time per event", "workerd's, with the sink behind it")
    result.tables.append(Table(f"{count:,} events to workerd, one batch after the other", columns, [row]))
    result.values["throughput"] = {"events_per_second": rates, "cpu_us_per_event": own, "workerd_us_per_event": theirs}


def _deliver(path: Path, worker: Workerd, name: str, count: int) -> tuple[float, float, float]:
    backend = AnalyticsEngineBackend(ingest_url=worker.url, ingest_key=KEY)
    delivery = Delivery(str(path), name, backend)
    began, cpu_began, theirs_began = perf_counter(), process_time(), worker.cpu_seconds
    while delivery.step():
        pass
    took = perf_counter() - began, process_time() - cpu_began
    assert len(worker.take()) == count  # the runtime passes points on after it answered
    theirs = worker.cpu_seconds - theirs_began
    backend.close()
    return *took, theirs


_DOWN = """
import json, sys, time
from usagekit import Recorder
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.sqlite import SQLiteBackend

def mebibytes():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 / 2**20

backend = AnalyticsEngineBackend(ingest_url="http://127.0.0.1:9", ingest_key="k" * 32)
recorder = Recorder(SQLiteBackend(sys.argv[1]), backend)
sizes, seconds, number = [], float(sys.argv[2]), 0
began = time.monotonic()
while (now := time.monotonic()) - began < seconds:
    for _ in range(50):
        number += 1
        recorder.track("export", user=f"usr_{number % 1000}", org="acme", response_bytes=number)
    time.sleep(0.05)
    if now - began >= 3 + len(sizes) * (seconds - 3) / 20:  # by then everything is loaded
        sizes.append(mebibytes())
print(json.dumps({"sizes": sizes, "events": number, "errors": recorder.status()["errors"]}))
"""


def _measure_memory(result: Result, home: Path, seconds: int) -> None:
    if not Path("/proc/self/statm").exists():
        return
    done = subprocess.run(
        [sys.executable, "-c", _DOWN, str(home / "down.db"), str(seconds)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
    )
    found = json.loads(done.stdout)
    sizes = found["sizes"]
    growth = sizes[-1] - sizes[0]
    assert found["errors"], "nothing was tried"
    result.targets.append(Target("MiB more with the Worker down", Estimate(growth, growth, growth), GROWTH))
    row = (f"{sizes[0]:.1f}", f"{max(sizes):.1f}", f"{sizes[-1]:.1f}", f"{found['events']:,}")
    columns = ("after 3 s", "at most", "at the end", "events recorded")
    result.tables.append(Table(f"resident MiB, {seconds} s with the Worker down", columns, [row]))
    result.values["down"] = found
