"""Added time per request beside what others add, and the processor time of a real server.

Each middleware has a process of its own, since some patch what the others measure; all live at once, and take turns.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import TYPE_CHECKING, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks import server
from benchmarks.measure import (
    Result,
    Setting,
    Table,
    Target,
    Timing,
    cpu,
    differences,
    interleaved,
    ratio,
    wall,
)
from benchmarks.peer import ASGI, SINK, SUBJECTS, WSGI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMES_PROMETHEUS = 5
TIMES_OPENTELEMETRY = 20
PEOPLE = 750  # requests in a slice, at most

_ROOT = Path(__file__).parents[1]
_TARGETS = (
    ("raw ASGI", "prometheus-fastapi-instrumentator", TIMES_PROMETHEUS),
    ("raw ASGI", "OpenTelemetry, metrics", TIMES_OPENTELEMETRY),
    ("raw WSGI", "OpenTelemetry, metrics", TIMES_OPENTELEMETRY),
)


def run(setting: Setting) -> Result:
    """Measure all kinds of app in one go, then the server."""
    result = Result()
    timings: dict[str, list[Timing]] = {}
    # Processes differ by where their memory lies: none is measured for the whole of a run.
    for seed in range(setting.scaled(3, 1)):
        for name, each in _measured(setting, seed).items():
            timings.setdefault(name, []).extend(each)
    for kind in (*ASGI, *WSGI):
        _report(result, kind, {name: timings[f"{kind} {name}"] for name in SUBJECTS if f"{kind} {name}" in timings})
    for kind, name, limit in _TARGETS:
        for clock, values in (("", wall), (", processor time", cpu)):
            base = values(timings[f"{kind} noop"])
            added = [differences(values(timings[f"{kind} {which}"]), base) for which in (name, "usagekit")]
            title = f"{kind}: {name}, x usagekit's added time{clock}"
            result.targets.append(Target(title, ratio(*added), limit, at_least=True))
    server.measure(result, setting)
    return result


def _measured(setting: Setting, seed: int) -> dict[str, list[Timing]]:
    with ExitStack() as stack:
        sink = stack.enter_context(_sink())
        peers = [stack.enter_context(_Peer(name, setting, sink)) for name in SUBJECTS]
        slices: dict[str, Callable[[], Timing]] = {
            f"{kind} {peer.name}": partial(peer.slice, kind) for peer in peers for kind in peer.kinds()
        }
        timings = interleaved(slices, setting.scaled(20, 6), seed)
        for peer in peers:
            peer.end()
    return timings


class _Peer:
    """A process of `benchmarks.peer`, for the time of a `with` block."""

    def __init__(self, name: str, setting: Setting, sink: str) -> None:
        self.name = name
        self._log = Path(setting.directory, "peers.log").open("a+b")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peer", name, str(PEOPLE), setting.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=_ROOT,
            env=os.environ | {SINK: sink, "TMPDIR": setting.directory},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def kinds(self) -> list[str]:
        """Wait until it can be timed; give the kinds of app it is around."""
        return self._line().strip().split(",")

    def slice(self, kind: str) -> Timing:
        """Time a slice there."""
        wall_us, cpu_us = self._ask(kind).split()
        return Timing(float(wall_us), float(cpu_us))

    def end(self) -> None:
        """End it; it must have counted every request."""
        served, counted = self._ask("end").split()
        if counted != served:
            msg = f"{self.name}: {counted} of {served} requests were counted, so its time is of something else"
            raise RuntimeError(msg)

    def _ask(self, what: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            msg = f"{self.name} died:\n{self._log.read().decode(errors='replace')[-4000:]}"
            raise RuntimeError(msg)
        return line


class _Sink(BaseHTTPRequestHandler):
    """Takes what is exported by OTLP, and tells how many requests it was told of."""

    counted = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/metrics"):
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            type(self).counted += _requests_in(body)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(str(self.counted).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _requests_in(body: bytes) -> int:
    return sum(
        point.count
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.exponential_histogram.data_points
        if any(attribute.key == "http.route" for attribute in point.attributes)
    )


@contextmanager
def _sink() -> Iterator[str]:
    handler = type("_CountingSink", (_Sink,), {"counted": 0})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def _report(result: Result, kind: str, timings: dict[str, list[Timing]]) -> None:
    clocks = {"wall": wall, "cpu": cpu}
    base = {clock: values(timings["noop"]) for clock, values in clocks.items()}
    added = {
        name: {clock: differences(values(each), base[clock]) for clock, values in clocks.items()}
        for name, each in timings.items()
    }
    rows = []
    for name, values in added.items():
        times = None
        if not name.startswith("noop"):
            times = {clock: ratio(each, added["usagekit"][clock]) for clock, each in values.items()}
        row = [name]
        for clock, each in values.items():
            row += [f"{median(each):.2f}", "" if times is None else str(times[clock])]
        rows.append(row)
        result.values[f"{kind} {name}"] = {
            "added_us": median(values["wall"]),
            "added_cpu_us": median(values["cpu"]),
            "times_usagekit": times,
            "request_time_ratio": ratio(wall(timings[name]), base["wall"]),
        }
    title = f"{kind}: added to a request of {median(base['wall']):.2f} us (processor time {median(base['cpu']):.2f} us)"
    columns = ("", "us", "x usagekit's (95 %)", "processor us", "x usagekit's (95 %)")
    result.tables.append(Table(title, columns, rows))
