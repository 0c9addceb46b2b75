"""What an app notices of a sink that is down: paced requests beside one that works, and others that do not."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.apps import receive, scopes_of, send, user_and_org_of
from benchmarks.measure import Result, Setting, Table, Target, Timing, interleaved, percentile, ratio, wall
from benchmarks.traffic import Traffic
from tests.support.workerd import KEY, serving_worker
from usagekit import Recorder
from usagekit.asgi import UsageMiddleware
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.opentelemetry import Acknowledged, OpenTelemetryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

PACE = 500  # requests per second
FAILS = "refuses, stalls, resets and swallows answers"
LIMIT = 1.25

_COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): ...
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


async def _item(request: Request) -> JSONResponse:
    return JSONResponse({"id": request.path_params["item_id"], "name": "an item", "price": 9.5})


def run(setting: Setting) -> Result:
    """Measure each state of each sink in turn; "works again" is the first one's twin, and shows the noise."""
    for name in ("opentelemetry", "usagekit"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    result = Result()
    with _process("-c", _COLLECTOR) as port:
        _measure(result, setting, "OpenTelemetry", port, _to_collector)
    with serving_worker(Path(setting.directory) / "worker") as worker:
        _measure(result, setting, "the ingest Worker", worker.port, _to_worker)
    return result


def _measure(
    result: Result,
    setting: Setting,
    what: str,
    port: int,
    sink_at: Callable[[int], Any],
) -> None:
    seconds = setting.scaled(20, 5) / 10
    latencies: dict[str, list[float]] = {}
    with asyncio.Runner() as runner, ExitStack() as stack:
        silent = stack.enter_context(_silent())
        failing = stack.enter_context(_process("-m", "tests.support.faults", str(port)))
        ports = {"works": port, "works again": port, "refuses": 9, "never answers": silent, FAILS: failing}
        apps = {
            name: stack.enter_context(_app(setting, f"{what} {name}".replace(" ", "-"), sink_at(at)))
            for name, at in ports.items()
        }
        scopes = scopes_of(Traffic().who(2000))

        def paced(name: str) -> Callable[[], Timing]:
            def serve() -> Timing:
                taken = runner.run(_paced(apps[name], scopes, seconds))
                latencies.setdefault(name, []).extend(taken)
                return Timing(median(taken), percentile(taken, 99))

            return serve

        timings = interleaved({name: paced(name) for name in ports}, setting.scaled(12, 2))
    _show(result, what, timings, latencies)


def _show(result: Result, what: str, timings: dict[str, list[Timing]], latencies: dict[str, list[float]]) -> None:
    base = wall(timings["works"])
    rows = []
    for name, each in timings.items():
        estimate = ratio(wall(each), base)
        tail = percentile(latencies[name], 99)
        rows.append((name, f"{median(wall(each)):.1f} µs", f"{tail:.1f} µs", str(estimate)))
        result.values[f"{what} {name}"] = {"p50_us": median(wall(each)), "p99_us": tail, "ratio": estimate.value}
        if not name.startswith("works"):
            said = f"a request while {what} {name}, times one while it works"
            result.targets.append(Target(said, estimate, LIMIT))
    title = f"{PACE} requests a second beside {what}"
    result.tables.append(Table(title, ("it", "p50", "p99", "p50 times that of one that works"), rows))


async def _paced(app: Any, scopes: Any, seconds: float) -> list[float]:
    taken = []
    start = perf_counter_ns()
    for number in range(int(PACE * seconds)):
        due = start + number * 1_000_000_000 // PACE
        await asyncio.sleep(max(0.0, (due - perf_counter_ns()) / 1e9))
        began = perf_counter_ns()
        await app(dict(scopes[number % len(scopes)]), receive, send)
        taken.append((perf_counter_ns() - began) / 1000)
    return taken


def _to_collector(port: int) -> OpenTelemetryBackend:
    exporter = Acknowledged(OTLPMetricExporter(endpoint=f"http://127.0.0.1:{port}/v1/metrics", timeout=1))
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)  # type: ignore[arg-type]
    provider = MeterProvider([reader], shutdown_on_exit=False)
    return OpenTelemetryBackend(meter_provider=provider, http="on", flush={reader: exporter})


def _to_worker(port: int) -> AnalyticsEngineBackend:
    return AnalyticsEngineBackend(ingest_url=f"http://127.0.0.1:{port}", ingest_key=KEY)


@contextmanager
def _app(setting: Setting, name: str, backend: Any) -> Iterator[Any]:
    with Recorder(SQLiteBackend(f"{setting.directory}/{name}.db"), backend) as recorder:
        inner = Starlette(routes=[Route("/items/{item_id:int}", _item)])
        yield UsageMiddleware(inner, recorder=recorder, identify=user_and_org_of)


@contextmanager
def _process(*arguments: str) -> Iterator[int]:
    """Run Python beside this process until the end of the block; the first line that it prints is its port."""
    process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def _silent() -> Iterator[int]:
    """Listen, and say nothing for ever; gives the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield int(listener.getsockname()[1])
