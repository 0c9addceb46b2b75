"""Metrics of OpenTelemetry's own SDK, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

if TYPE_CHECKING:
    from collections.abc import Iterable


class Meters:
    """A provider in memory, and what it holds."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def names(self) -> set[str]:
        """Give the names of all metrics."""
        return {metric.name for _, metric in self._metrics()}

    def counts(self, name: str) -> dict[str, int]:
        """Give how often a histogram was recorded, by who recorded it."""
        return {
            scope: sum(point.count for point in metric.data.data_points)
            for scope, metric in self._metrics()
            if metric.name == name
        }

    def _metrics(self) -> Iterable[tuple[str, Any]]:
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    yield scope.scope.name, metric
