"""A collector on loopback: it decodes the real protobuf of OTLP over HTTP, and keeps what it was sent."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

Attributes = dict[str, Any]


class Collector:
    """What came: the last value of every metric stream, and every log record in order."""

    def __init__(self) -> None:
        self.url = ""
        self.metrics: dict[str, Metric] = {}
        self.exports = 0
        self.records: list[tuple[int, Attributes]] = []
        self.batches: list[list[str]] = []

    def take_metrics(self, body: bytes) -> bytes:
        """Keep the metrics of a request."""
        self.exports += 1
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.metrics[f"{scope.scope.name}/{metric.name}"] = metric
        return bytes(ExportMetricsServiceResponse().SerializeToString())

    def take_logs(self, body: bytes) -> bytes:
        """Keep the log records of a request, and their ids as one batch."""
        batch = [
            (record.time_unix_nano, attributes(record.attributes) | {"body": record.body.string_value})
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
        self.records += batch
        self.batches.append([values["usagekit.event.id"] for _, values in batch])
        return bytes(ExportLogsServiceResponse().SerializeToString())

    def sums(self, name: str, *by: str) -> dict[tuple[Any, ...], float]:
        """Give a counter's values by attributes."""
        totals: dict[tuple[Any, ...], float] = {}
        for point in self.metrics[name].sum.data_points:
            values = attributes(point.attributes)
            key = tuple(values.get(one) for one in by)
            totals[key] = totals.get(key, 0) + (point.as_double or point.as_int)
        return totals

    def histograms(self, name: str, *by: str) -> dict[tuple[Any, ...], tuple[int, float]]:
        """Give a histogram's counts and sums by attributes."""
        return {
            tuple(attributes(point.attributes).get(one) for one in by): (point.count, point.sum)
            for point in self.metrics[name].histogram.data_points
        }


def attributes(pairs: Iterable[KeyValue]) -> Attributes:
    """Give attributes as a dictionary."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector during a block."""
    collector = Collector()
    takers = {"/v1/metrics": collector.take_metrics, "/v1/logs": collector.take_logs}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            answer = takers[self.path](body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
