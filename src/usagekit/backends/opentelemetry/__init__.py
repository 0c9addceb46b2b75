"""OpenTelemetry out: events as metrics, and if you like as log records, in your own providers.

Needs `opentelemetry-api` alone (`pip install 'usagekit[otel]'`); the SDK, its exporters and providers are the app's.
Spans in are the business of `usagekit.opentelemetry`.
"""

from __future__ import annotations

from usagekit.backends.opentelemetry.acknowledged import Acknowledged, NotAcknowledged
from usagekit.backends.opentelemetry.backend import OpenTelemetryBackend

__all__ = ["Acknowledged", "NotAcknowledged", "OpenTelemetryBackend"]
