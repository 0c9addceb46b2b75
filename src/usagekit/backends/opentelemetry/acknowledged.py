"""Knowing what became of an export, which OpenTelemetry's SDK does not tell."""

from __future__ import annotations

from threading import Lock
from typing import Any

from usagekit.errors import UsagekitError

__all__ = ["Acknowledged", "NotAcknowledged"]


class NotAcknowledged(UsagekitError, ConnectionError):  # noqa: N818  what the exporter's silence means
    """An exporter did not say that it succeeded: the same batch is tried again."""


class Acknowledged:
    """An exporter of metrics or logs, and a count of what became of its exports.

    Give it to a reader or processor of the SDK in place of the exporter, and to the backend with that reader:

        exporter = Acknowledged(OTLPMetricExporter())
        reader = PeriodicExportingMetricReader(exporter)
        OpenTelemetryBackend(meter_provider=MeterProvider([reader]), flush={reader: exporter})

    The SDK's readers and processors drop what an exporter returns, and `force_flush` says True all the same; so a
    batch is only known to have arrived where somebody counts. Any thread may call it; it lives as long as the exporter.

    Args:
        exporter: with an `export` that returns the SDK's result, `SUCCESS` or another.
    """

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._lock = Lock()
        self._succeeded = self._failed = 0

    def export(self, *arguments: Any, **options: Any) -> Any:
        """Export, and count; returns and raises what the exporter does."""
        name = ""
        try:
            result = self._exporter.export(*arguments, **options)
            name = getattr(result, "name", "")
        finally:
            with self._lock:
                if name == "SUCCESS":
                    self._succeeded += 1
                else:
                    self._failed += 1
        return result

    def counts(self) -> tuple[int, int]:
        """Give how many exports succeeded and how many did not, in this process."""
        with self._lock:
            return self._succeeded, self._failed

    def __getattr__(self, name: str) -> Any:
        # Readers ask an exporter for its temporality, aggregation, shutdown and more.
        if name == "_exporter":
            raise AttributeError(name)  # a copy that was not made yet
        return getattr(self._exporter, name)
