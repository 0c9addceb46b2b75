"""The SDK as an app sets it up, with exporters that speak OTLP to a collector on loopback."""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from tests.support.otlp import Collector, collecting
from usagekit._store import delivery as deliveries
from usagekit._store import engine as engines
from usagekit.backends.opentelemetry import Acknowledged, OpenTelemetryBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Free the SDK's cycles here: their weak methods fail while they are freed, in whatever test that happens."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once: how long to wait is tested elsewhere."""
    monkeypatch.setattr(deliveries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(deliveries, "LONGEST_WAIT", 0.02)
    monkeypatch.setattr(engines, "DELIVER_SECONDS", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger of a test lies."""
    return tmp_path / "usage.db"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """An OTLP collector on this machine."""
    with collecting() as collector:
        yield collector


@dataclass
class Providers:
    """Providers of an app, their pipes to `url`, and the exporters of these."""

    meter_provider: MeterProvider
    logger_provider: LoggerProvider
    reader: PeriodicExportingMetricReader
    processor: BatchLogRecordProcessor
    metrics: Acknowledged
    logs: Acknowledged

    def backend(self, **options: Any) -> OpenTelemetryBackend:
        """Make a backend that knows what arrived."""
        flush: dict[Any, Acknowledged] = {self.reader: self.metrics}
        if options.get("logs"):
            flush[self.processor] = self.logs
        return OpenTelemetryBackend(
            meter_provider=self.meter_provider, logger_provider=self.logger_provider, flush=flush, **options
        )


@contextmanager
def providing(url: str, timeout: float = 5.0) -> Iterator[Providers]:
    """Set the SDK up during a block."""
    metrics = Acknowledged(OTLPMetricExporter(endpoint=f"{url}/v1/metrics", timeout=timeout))
    logs = Acknowledged(OTLPLogExporter(endpoint=f"{url}/v1/logs", timeout=timeout))
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=math.inf)  # type: ignore[arg-type]
    # No timer of its own, which could cut a batch in two.
    processor = BatchLogRecordProcessor(logs, schedule_delay_millis=86_400_000)  # type: ignore[arg-type]
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    logger_provider = LoggerProvider(shutdown_on_exit=False)
    logger_provider.add_log_record_processor(processor)
    try:
        yield Providers(meter_provider, logger_provider, reader, processor, metrics, logs)
    finally:
        meter_provider.shutdown()
        logger_provider.shutdown()


@pytest.fixture
def providers(collector: Collector) -> Iterator[Providers]:
    """Providers that export to the collector."""
    with providing(collector.url) as providers:
        yield providers
