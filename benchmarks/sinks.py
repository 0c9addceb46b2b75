"""What an app notices of a sink that is down: paced requests beside one that works, refuses, or never answers."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
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
from usagekit import Recorder
from usagekit.asgi import UsageMiddleware
from usagekit.backends.opentelemetry import Acknowledged, OpenTelemetryBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

PACE = 500  # requests per second
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
    """Measure each state of the sink in turn; "works again" is the first one's twin, and shows the noise."""
    for name in ("opentelemetry", "usagekit"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    seconds = setting.scaled(20, 5) / 10
    latencies: dict[str, list[float]] = {}
    try:
        with ExitStack() as stack:
            working, silent = stack.enter_context(_collector()), stack.enter_context(_silent())
            ports = {"works": working, "works again": working, "refuses": 9, "never answers": silent}
            apps = {name: stack.enter_context(_app(setting, name, port)) for name, port in ports.items()}
            scopes = scopes_of(Traffic().who(2000))

            def paced(name: str) -> Callable[[], Timing]:
                def serve() -> Timing:
                    taken = loop.run_until_complete(_paced(apps[name], scopes, seconds))
                    latencies.setdefault(name, []).extend(taken)
                    return Timing(median(taken), percentile(taken, 99))

                return serve

            timings = interleaved({name: paced(name) for name in ports}, setting.scaled(12, 2))
    finally:
        loop.close()
    return _result(timings, latencies)


def _result(timings: dict[str, list[Timing]], latencies: dict[str, list[float]]) -> Result:
    result = Result()
    base = wall(timings["works"])
    rows = []
    for name, each in timings.items():
        estimate = ratio(wall(each), base)
        tail = percentile(latencies[name], 99)
        rows.append((name, f"{median(wall(each)):.1f} µs", f"{tail:.1f} µs", str(estimate)))
        result.values[name] = {"p50_us": median(wall(each)), "p99_us": tail, "ratio": estimate.value}
        if name in {"refuses", "never answers"}:
            result.targets.append(Target(f"a request while the sink {name}, times one while it works", estimate, LIMIT))
    title = f"{PACE} requests a second beside an OpenTelemetry sink"
    result.tables.append(Table(title, ("the sink", "p50", "p99", "p50 times that of one that works"), rows))
    return result


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


@contextmanager
def _app(setting: Setting, name: str, port: int) -> Iterator[Any]:
    exporter = Acknowledged(OTLPMetricExporter(endpoint=f"http://127.0.0.1:{port}/v1/metrics", timeout=1))
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)  # type: ignore[arg-type]
    provider = MeterProvider([reader], shutdown_on_exit=False)
    backend = OpenTelemetryBackend(meter_provider=provider, http="on", flush={reader: exporter})
    with Recorder(SQLiteBackend(f"{setting.directory}/{name.replace(' ', '-')}.db"), backend) as recorder:
        inner = Starlette(routes=[Route("/items/{item_id:int}", _item)])
        yield UsageMiddleware(inner, recorder=recorder, identify=user_and_org_of)


@contextmanager
def _collector() -> Iterator[int]:
    """Answer exports in a process of its own; gives its port."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True)
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
