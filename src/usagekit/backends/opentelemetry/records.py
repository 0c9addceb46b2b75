"""Events as log records: one each, in event time, with user and organisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usagekit.backends.opentelemetry import attributes as conventions
from usagekit.event import to_microseconds

if TYPE_CHECKING:
    from opentelemetry._logs import Logger

    from usagekit.event import UsageEvent

EVENT_NAME = "usagekit.event"

_FIELDS = {
    "id": "usagekit.event.id",
    "kind": "usagekit.kind",
    "event": "usagekit.event",
    "user": "user.id",
    "org": "usagekit.org.id",
    "status": "http.response.status_code",
    "latency_ms": "usagekit.latency_ms",
    "first_token_ms": "usagekit.first_token_ms",
    "model": "gen_ai.request.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "cost_source": "usagekit.cost_source",
    "response_bytes": "http.response.body.size",
    "aborted": "usagekit.aborted",
}


def emit(logger: Logger, event: UsageEvent) -> None:
    """Write an event to `logger`; fields that are empty or 0 are left out."""
    from opentelemetry._logs import SeverityNumber

    values: dict[str, Any] = {name: value for field, name in _FIELDS.items() if (value := getattr(event, field))}
    values |= {"usagekit.weight": event.weight, "usagekit.quantity": event.quantity}
    if event.route:
        method, template = conventions.method_and_template(event.route)
        values |= {"http.request.method": method} | ({"http.route": template} if template else {})
    if event.provider:
        values["gen_ai.provider.name"] = conventions.provider_name(event.provider)
    if event.cost_usd is not None:
        values["usagekit.cost_usd"] = f"{event.cost_usd:f}"  # exact, which a float is not
    values |= {f"usagekit.dimension.{name}": value for name, value in event.attributes.items()}
    logger.emit(
        timestamp=to_microseconds(event.time) * 1000,
        severity_number=SeverityNumber.INFO,
        body=event.event,
        event_name=EVENT_NAME,
        attributes=values,
    )
